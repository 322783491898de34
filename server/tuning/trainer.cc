#include "server/tuning/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/packed_ops.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/model/kernels/cuda/launch.h"
#include "server/model/torch_target.h"
#include "server/tuning/pass_graphs.h"

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

// How many micro-batches run side by side when only the forward pass counts.
int64_t ForwardWays(const ComputeTarget& target) {
  return target.device == ComputeTarget::Device::kCpu ? at::get_num_threads() : 1;
}

// Of what is free when training begins; the rest is for what comes and goes within a layer.
constexpr double kActivationShare = 0.75;

at::ScalarType PassType(const Hyperparameters& h) { return h.precision == "bfloat16" ? at::kBFloat16 : at::kFloat; }

// Calls body(i) for each of `count` micro-batches: on a thread each, inside which
// nothing else is parallel; or, where that would leave half of the threads idle, one
// after the other with all threads inside.
template <typename Body>
void SideBySide(int64_t count, const Body& body) {
  if (2 * count <= at::get_num_threads() || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace

Trainer::Trainer(const BaseModel* base, Method* method, const Batcher* batches, const Hyperparameters& h,
                 Arbiter* arbiter, int64_t activation_bytes)
    : base_(base),
      method_(method),
      batches_(batches),
      h_(h),
      arbiter_(arbiter),
      stream_(base->target),
      making_(std::make_unique<OwnStream::Scope>(stream_)),
      flat_(method->parameters(), PassType(h)),
      direct_(base, method, &flat_, PassType(h), method->lora() ? method->lora()->dropout : 0),
      optimizer_(method->parameters(), h, &flat_) {
  if (activation_bytes == 0) {
    const Arbiter::Turn turn = TakeTurn();  // asking gives memory back, which no capture elsewhere would survive
    activation_bytes = static_cast<int64_t>(kActivationShare * DeviceMemoryBytes(base->target));
  }
  activation_bytes_ = activation_bytes;
  if (base->target.device == ComputeTarget::Device::kCuda && cuda::Available()) {
    graphs_ = std::make_unique<PassGraphs>(&direct_, base, PassType(h), activation_bytes);
  }
  Synchronize(base->target);
  making_.reset();
}

Trainer::~Trainer() = default;

Arbiter::Turn Trainer::TakeTurn(Sharing sharing) {
  return arbiter_ ? arbiter_->Acquire(WorkClass::kTraining, sharing) : Arbiter::Turn();
}

// Passes of more operations than this keep a GPU busy by themselves, and would make
// generation wait for several of them: some milliseconds.
constexpr double kSharedOperations = 2e12;

Sharing Trainer::SharingOf(const PackedMicroBatch& batch, bool is_first) const {
  const double operations = 4.0 * static_cast<double>(base_->config.Parameters() * batch.tokens);
  const bool shares = operations <= kSharedOperations && graphs_ && graphs_->IsReplay(batch, is_first);
  return shares ? Sharing::kShared : Sharing::kAlone;
}

Trainer::Pass Trainer::Forward(const MicroBatch& batch) {
  const at::ScalarType type = PassType(h_);
  const DecoderWeights weights = method_->Weights();
  const RopeTable rope{base_->rope_cos_PH, base_->rope_sin_PH};
  const PackedSequences sequences = PackSequences(batch.starts, DeviceOf(base_->target));
  PackedOps ops(base_->config, weights, rope, sequences, method_->lora(), /*dropout=*/0, /*dropout_seed=*/0);
  at::Tensor x = EmbedTokens(weights.embedding_VD, method_->soft_prompt_ND(), ToDevice(batch.tokens, base_->target), type);
  at::Tensor hidden = RunDecoder(base_->config, weights, x, &ops);
  at::Tensor predicting = hidden.index_select(0, ToDevice(batch.loss_rows, base_->target));
  CrossEntropy result = LinearCrossEntropy(predicting, weights.head_VD.to(type), ToDevice(batch.targets, base_->target));
  return {result.loss_sum, result.correct};
}

// Micro-batches of a step draw their dropout from this and the following seeds.
uint64_t Trainer::FirstSeed(int64_t step) const {
  return (static_cast<uint64_t>(*h_.seed) * 1000003u + step) * 1009u + 1;
}

Trainer::PreparedStep Trainer::Prepare(int64_t step) const {
  PreparedStep prepared{.step = step};
  const std::vector<Batcher::Group> groups = batches_->Step(step);
  for (const Batcher::Group& group : groups) {
    for (const MicroBatch& batch : group) {
      prepared.tokens += batch.tokens.size();
      prepared.loss_tokens += batch.targets.size();
    }
  }
  int64_t seed = static_cast<int64_t>(FirstSeed(step));
  for (const Batcher::Group& group : groups) {
    for (const MicroBatch& batch : group) {
      const int64_t batch_seed = seed++;
      if (batch.targets.empty()) continue;
      if (graphs_) {
        prepared.batches.push_back(graphs_->Pack(batch, batch_seed, prepared.loss_tokens));
        continue;
      }
      const PassShape shape = ExactShape(batch);
      prepared.batches.push_back({shape, PackBatch(batch, shape, batch_seed, prepared.loss_tokens, /*pinned=*/false),
                                  static_cast<int64_t>(batch.tokens.size())});
    }
  }
  return prepared;
}

Trainer::PreparedStep Trainer::TakePrepared(int64_t step) {
  PreparedStep prepared;
  if (next_.valid()) prepared = next_.get();
  if (prepared.step != step) prepared = Prepare(step);
  next_ = std::async(std::launch::async, [this, step] { return Prepare(step + 1); });
  return prepared;
}

DirectPass::Result Trainer::RunPass(const PackedMicroBatch& batch, bool is_first) {
  if (graphs_) return graphs_->Run(batch, is_first);
  const int64_t element = static_cast<int64_t>(at::elementSize(PassType(h_)));
  return direct_.Run(ViewBatch(batch.packed.to(DeviceOf(base_->target)), batch.shape, batch.packed),
                     ChooseKeep(base_->config, batch.shape.tokens, element, activation_bytes_), is_first);
}

absl::StatusOr<double> Trainer::Accumulate(const PreparedStep& step) {
  if (!has_stepped_) flat_.Refresh();
  has_stepped_ = true;
  double loss = 0;
  bool is_first = true;
  for (const PackedMicroBatch& batch : step.batches) {
    const Arbiter::Turn turn = TakeTurn(SharingOf(batch, is_first));
    loss += RunPass(batch, is_first).loss_sum.item<double>();  // waits for the pass
    is_first = false;
    if (!std::isfinite(loss)) return NotFinite(step.step, "loss");
  }
  return loss;
}

absl::StatusOr<StepResult> Trainer::Step(int64_t step) {
  StepResult result;
  result.learning_rate = LearningRate(h_, step, h_.max_steps);
  const OwnStream::Scope scope(stream_);
  absl::Status status = CatchTorch([&]() -> absl::Status {
    const PreparedStep prepared = TakePrepared(step);
    result.tokens = prepared.tokens;
    result.loss_tokens = prepared.loss_tokens;
    ATTUNE_ASSIGN_OR_RETURN(const double loss, Accumulate(prepared));
    result.loss = result.loss_tokens ? loss / result.loss_tokens : 0;
    if (result.loss_tokens == 0) return absl::OkStatus();  // nothing to learn from: nothing changes
    // Many parameters' step fills the device; few ones' is over before it counts.
    const Arbiter::Turn turn = TakeTurn(graphs_ ? Sharing::kShared : Sharing::kAlone);
    result.gradient_norm = optimizer_.Step(result.learning_rate);
    return std::isfinite(result.gradient_norm) ? absl::OkStatus() : NotFinite(step, "gradient");
  });
  if (!status.ok()) return status;
  return result;
}

absl::StatusOr<ValidationResult> Trainer::Evaluate(const Batcher& batches, const std::function<bool()>& stop) {
  ValidationResult result;
  int64_t tokens = 0, correct = 0;
  const OwnStream::Scope scope(stream_);
  absl::Status status = CatchTorch([&]() -> absl::Status {
    for (const Batcher::Group& group : batches.All(ForwardWays(base_->target))) {
      if (stop && stop()) return absl::CancelledError("stopped while evaluating");
      Arbiter::Turn turn = TakeTurn();
      std::vector<Pass> passes(group.size());
      SideBySide(group.size(), [&](int64_t i) {
        at::NoGradGuard no_grad;  // each thread has its own
        if (!group[i].targets.empty()) passes[i] = Forward(group[i]);
      });
      for (size_t i = 0; i < group.size(); ++i) {
        if (group[i].targets.empty()) continue;
        result.loss += passes[i].loss_sum.item<double>();
        correct += passes[i].correct;
        tokens += group[i].targets.size();
      }
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  result.loss /= std::max<int64_t>(1, tokens);
  result.token_accuracy = static_cast<double>(correct) / std::max<int64_t>(1, tokens);
  return result;
}

}  // namespace attune
