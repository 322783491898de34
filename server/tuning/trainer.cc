#include "server/tuning/trainer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/packed_ops.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

absl::Status NotFinite(int64_t step, const char* what) {
  return MakeError(absl::StatusCode::kInternal, "NAN_LOSS",
                   absl::StrCat("the ", what, " of step ", step + 1,
                                " is no finite number; use a lower learning rate, or float32 precision"));
}

at::Tensor ToDevice(const std::vector<int64_t>& values, const ComputeTarget& target) {
  return at::tensor(values, at::kLong).to(DeviceOf(target));
}

}  // namespace

Trainer::Trainer(const BaseModel* base, Method* method, const Batcher* batches, const Hyperparameters& h,
                 Arbiter* arbiter)
    : base_(base), method_(method), batches_(batches), h_(h), arbiter_(arbiter), optimizer_(method->parameters(), h) {}

Arbiter::Turn Trainer::TakeTurn() { return arbiter_ ? arbiter_->Acquire(WorkClass::kTraining) : Arbiter::Turn(); }

Trainer::Pass Trainer::Forward(const MicroBatch& batch, double dropout, uint64_t dropout_seed) {
  const at::ScalarType type = h_.precision == "bfloat16" ? at::kBFloat16 : at::kFloat;
  const DecoderWeights weights = method_->Weights();
  const RopeTable rope{base_->rope_cos_PH, base_->rope_sin_PH};
  const PackedSequences sequences = PackSequences(batch.starts, DeviceOf(base_->target));
  PackedOps ops(base_->config, weights, rope, sequences, method_->lora(), dropout, dropout_seed);
  at::Tensor x = EmbedTokens(weights.embedding_VD, method_->soft_prompt_ND(), ToDevice(batch.tokens, base_->target), type);
  at::Tensor hidden = RunDecoder(base_->config, weights, x, &ops);
  at::Tensor predicting = hidden.index_select(0, ToDevice(batch.loss_rows, base_->target));
  CrossEntropy result = LinearCrossEntropy(predicting, weights.head_VD.to(type), ToDevice(batch.targets, base_->target));
  return {result.loss_sum, result.correct};
}

absl::StatusOr<StepResult> Trainer::Step(int64_t step) {
  StepResult result;
  const std::vector<MicroBatch> micro_batches = batches_->Step(step);
  for (const MicroBatch& batch : micro_batches) {
    result.tokens += batch.tokens.size();
    result.loss_tokens += batch.targets.size();
  }
  result.learning_rate = LearningRate(h_, step, h_.max_steps);
  const double dropout = method_->lora() ? method_->lora()->dropout : 0;
  absl::Status status = CatchTorch([&]() -> absl::Status {
    uint64_t stream = (static_cast<uint64_t>(*h_.seed) * 1000003u + step) * 1009u;
    for (const MicroBatch& batch : micro_batches) {
      Arbiter::Turn turn = TakeTurn();
      if (batch.targets.empty()) continue;
      Pass pass = Forward(batch, dropout, ++stream);
      const double loss = pass.loss_sum.item<double>();
      if (!std::isfinite(loss)) return NotFinite(step, "loss");
      result.loss += loss / result.loss_tokens;
      (pass.loss_sum / static_cast<double>(result.loss_tokens)).backward();
      Synchronize(base_->target);
    }
    Arbiter::Turn turn = TakeTurn();
    result.gradient_norm = optimizer_.Step(result.learning_rate);
    return std::isfinite(result.gradient_norm) ? absl::OkStatus() : NotFinite(step, "gradient");
  });
  if (!status.ok()) {
    for (const Parameter& parameter : method_->parameters()) at::Tensor(parameter.leaf).mutable_grad().reset();
    return status;
  }
  return result;
}

absl::StatusOr<ValidationResult> Trainer::Evaluate(const Batcher& batches, const std::function<bool()>& stop) {
  ValidationResult result;
  int64_t tokens = 0, correct = 0;
  absl::Status status = CatchTorch([&]() -> absl::Status {
    at::NoGradGuard no_grad;
    for (const MicroBatch& batch : batches.All()) {
      if (stop && stop()) return absl::CancelledError("stopped while evaluating");
      if (batch.targets.empty()) continue;
      Arbiter::Turn turn = TakeTurn();
      Pass pass = Forward(batch, 0, 0);
      result.loss += pass.loss_sum.item<double>();
      correct += pass.correct;
      tokens += batch.targets.size();
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  result.loss /= std::max<int64_t>(1, tokens);
  result.token_accuracy = static_cast<double>(correct) / std::max<int64_t>(1, tokens);
  return result;
}

}  // namespace attune
