#include "server/tuning/estimate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "server/model/kernels/blocked_attention.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/model/torch_target.h"
#include "server/tuning/direct_pass.h"
#include "server/tuning/pass_loss.h"

namespace attune {

namespace {

int64_t ElementBytes(const MemoryInputs& inputs) { return inputs.bfloat16 ? 2 : 4; }

// Masters and gradients in fp32, a copy to compute with, moments.
int64_t StateBytes(const MemoryInputs& inputs) {
  const double moments = inputs.is_8bit_optimizer ? 2 * (1 + 4.0 / 256) : 8;
  return static_cast<int64_t>(inputs.trainable_parameters * (8 + (inputs.bfloat16 ? 2 : 0) + moments));
}

// Of one token, in bytes.
struct TokenBytes {
  int64_t hidden, qkv, q, inner;  // rows of these widths
  int64_t normed_heads;           // queries and keys that are normed
  int64_t post_normed;            // what is normed before it is added
  int64_t statistics;             // norms' and attention's, fp32, and LoRA's inner products: kept with the layer
  int64_t workspace;              // of attention's gradient
};

// Whether a GPU has no kernel for its attention.
bool UsesBlockedAttention(const ModelConfig& config, const MemoryInputs& inputs) {
  return config.attention_softcap > 0 || (!inputs.bfloat16 && !config.windows.empty());
}

TokenBytes TokenBytesOf(const ModelConfig& config, const MemoryInputs& inputs) {
  const int64_t element = ElementBytes(inputs);
  const int64_t normed = config.qk_norm ? config.heads + config.kv_heads : 0;
  TokenBytes bytes{.hidden = config.hidden * element,
                   .qkv = config.qkv_size() * element,
                   .q = config.q_size() * element,
                   .inner = config.intermediate * element,
                   .normed_heads = normed * config.head_dim * element,
                   .post_normed = config.post_norms ? 2 * config.hidden * element : 0,
                   .statistics = 8 + 4 * (config.heads + normed) + kProjections * inputs.lora_rank * element,
                   .workspace = 0};
  if (inputs.on_gpu && UsesBlockedAttention(config, inputs)) {
    // All in fp32, and a block of scores with what its gradient passes through.
    bytes.workspace = 4 * (4 * config.q_size() + 4 * config.kv_size() + 5 * config.heads * kBlockedQueries);
  } else if (inputs.on_gpu && inputs.bfloat16) {
    // dq adds up in fp32, as do dk and dv of each query head where heads share keys; and a row sum.
    const int64_t shared = config.heads == config.kv_heads ? 0 : 2 * bytes.q;
    bytes.workspace = 4 * config.q_size() + shared + 4 * config.heads;
  }
  return bytes;
}

// The passing buffers of a layer's backward pass, beside what the layer keeps: those of its
// recomputation, of the feed-forward part and of attention's.
int64_t BackwardBytes(const TokenBytes& token, Keep keep, int64_t tokens) {
  const bool input_only = keep == Keep::kInput || keep == Keep::kHost;  // never kInputWhole: that is passing
  const int64_t whole =
      4 * token.hidden + token.post_normed + token.qkv + token.q + token.normed_heads + 3 * token.inner;
  if (input_only && tokens > DirectPass::kFeedForwardRows) {
    const int64_t rows = DirectPass::kFeedForwardRows;
    // x, x2, dy and dx2 whole, q/k/v and attention's output; the rest a chunk at a time.
    const int64_t feed_forward =
        tokens * (4 * token.hidden + token.post_normed + token.qkv + token.q + token.normed_heads) + rows * 6 * token.inner;
    const int64_t attention =
        tokens * (4 * token.hidden + token.post_normed + 3 * token.qkv + 2 * token.q + 3 * token.normed_heads + token.workspace);
    return std::max(feed_forward, attention) + tokens * token.statistics;
  }
  int64_t restored = 0;
  if (input_only) restored = whole - (keep == Keep::kInput ? token.hidden : 0) + token.statistics;
  if (keep == Keep::kNoCheap || keep == Keep::kNoGateUp) restored = 2 * token.hidden + token.inner;
  if (keep == Keep::kNoGateUp) restored += 2 * token.inner;
  const int64_t feed_forward = token.hidden + token.post_normed / 2 + 3 * token.inner;
  const int64_t attention =
      2 * token.hidden + token.post_normed / 2 + token.q + 2 * token.qkv + 2 * token.normed_heads + token.workspace - 3 * token.inner;
  return tokens * (restored + std::max(feed_forward, attention));
}

// Logits of one chunk, and hidden states at rows that carry loss with their gradients.
int64_t HeadBytes(const ModelConfig& config, const TokenBytes& token, const MemoryInputs& inputs) {
  const int64_t rows = std::min(CrossEntropyRows(inputs.on_gpu, config.vocab), inputs.loss_tokens);
  const int64_t copies = config.logit_softcap > 0 ? 3 : 1;  // logits before and under the cap, and the slopes
  constexpr int64_t kDouble = 8, kFloat = 4;
  int64_t objective = inputs.pairs * inputs.loss_tokens * 3 * kDouble;  // whose row is whose, thrice
  if (inputs.has_teacher) {
    objective += std::min(TeacherLossRows(config.vocab), inputs.loss_tokens) * config.vocab * kTeacherMatrices * kFloat;
  }
  return copies * rows * config.vocab * ElementBytes(inputs) + inputs.loss_tokens * 4 * token.hidden +
         inputs.micro_batch_tokens * 2 * token.hidden + objective +
         (inputs.adapts_head ? inputs.loss_tokens * 2 * inputs.lora_rank * ElementBytes(inputs) : 0);
}

// Behind the layers' backward passes, where a LoRA's gradient of the embedding adds up by tokens before it is turned.
int64_t EmbeddingBytes(const ModelConfig& config, const TokenBytes& token, const MemoryInputs& inputs) {
  if (!inputs.adapts_embedding) return 0;
  constexpr int64_t kFloat = 4;
  const int64_t ranks = 3 * inputs.lora_rank * ElementBytes(inputs);
  return inputs.micro_batch_tokens * (2 * token.hidden + ranks) + config.vocab * inputs.lora_rank * kFloat;
}

}  // namespace

int64_t EstimateTrainingBytes(const ModelConfig& config, const MemoryInputs& inputs) {
  const int64_t tokens = inputs.micro_batch_tokens, element = ElementBytes(inputs);
  const TokenBytes token = TokenBytesOf(config, inputs);
  const int64_t budget = inputs.activation_bytes > 0 ? inputs.activation_bytes : std::numeric_limits<int64_t>::max();
  const std::vector<Keep> keep = ChooseKeep(config, tokens, element, budget, inputs.on_gpu);
  int64_t kept = 0, peak = 0;
  for (Keep layer : keep) {
    kept += tokens * KeptBytesPerToken(config, layer, element);
    if (layer != Keep::kInput && layer != Keep::kHost) kept += tokens * token.statistics;
    peak = std::max(peak, kept + BackwardBytes(token, layer, tokens));
  }
  peak = std::max({peak, kept + HeadBytes(config, token, inputs), EmbeddingBytes(config, token, inputs)});
  int64_t bytes = StateBytes(inputs) + peak;
  if (inputs.quantized) bytes += 2 * config.intermediate * config.hidden * element;  // one product's weight at a time
  // Two streams' cuBLAS workspaces.
  if (inputs.on_gpu) bytes += int64_t{64} << 20;
  return bytes;
}

int64_t ActivationBudget(int64_t device_bytes, int64_t free_bytes, int64_t weight_bytes, const MemoryInputs& inputs) {
  const int64_t state = StateBytes(inputs);
  return std::max<int64_t>({1, (free_bytes - state) / 2, (device_bytes - weight_bytes - state) / 8});
}

int64_t ActivationBudgetWithin(int64_t training_bytes, const ModelConfig& config, MemoryInputs inputs) {
  int64_t low = 1, high = std::max<int64_t>(2, training_bytes);
  while (high - low > 1) {
    inputs.activation_bytes = low + (high - low) / 2;
    (EstimateTrainingBytes(config, inputs) <= training_bytes ? low : high) = inputs.activation_bytes;
  }
  return low;
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
