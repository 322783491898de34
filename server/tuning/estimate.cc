#include "server/tuning/estimate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "absl/synchronization/mutex.h"
#include "server/model/torch_target.h"

namespace attune {

int64_t EstimateTrainingBytes(const ModelConfig& config, const MemoryInputs& inputs) {
  const int64_t element = inputs.bfloat16 ? 2 : 4;
  // Master, gradient and two moments, all fp32.
  int64_t bytes = inputs.trainable_parameters * 16;
  // Kept per token and layer: both norms' inputs and outputs, q/k/v, attention's
  // output, the packed gate and up, their product.
  const int64_t per_layer = 4 * config.hidden + config.qkv_size() + config.q_size() + 3 * config.intermediate;
  bytes += inputs.micro_batch_tokens * config.layers * per_layer * element;
  // Passing buffers of the backward pass.
  bytes += inputs.micro_batch_tokens * (4 * config.intermediate + 4 * config.hidden) * element;
  // A chunk of logits with its gradient, and hidden states with theirs.
  bytes += std::min<int64_t>(256, inputs.loss_tokens) * config.vocab * 8;
  bytes += inputs.loss_tokens * config.hidden * 2 * element;
  if (inputs.trains_weights && inputs.bfloat16) bytes += inputs.trainable_parameters * 2;  // working copies
  return bytes;
}

double TrainingOperationsPerToken(const ModelConfig& config, bool trains_weights) {
  const double body = static_cast<double>(config.Parameters() - config.vocab * config.hidden);
  return (trains_weights ? 6.0 : 4.0) * body;
}

double MeasuredOperationsPerSecond(const ComputeTarget& target) {
  static absl::Mutex mutex(absl::kConstInit);
  static double fastest = 0;
  absl::MutexLock lock(&mutex);
  at::NoGradGuard no_grad;
  constexpr int64_t kSize = 512;
  at::Tensor a = at::ones({kSize, kSize}, at::TensorOptions(TypeOf(target)).device(DeviceOf(target)));
  at::mm(a, a);
  Synchronize(target);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  // The fastest of many short products: what else runs meanwhile slows only some of them.
  while (Clock::now() - start < std::chrono::milliseconds(100)) {
    const auto begin = Clock::now();
    at::mm(a, a);
    Synchronize(target);
    const std::chrono::duration<double> seconds = Clock::now() - begin;
    fastest = std::max(fastest, 2.0 * kSize * kSize * kSize / seconds.count());
  }
  return fastest;
}

}  // namespace attune
