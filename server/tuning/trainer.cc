#include "server/tuning/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/kernels/cuda/launch.h"
#include "server/model/torch_target.h"
#include "server/tuning/pass_graphs.h"
#include "server/tuning/reference.h"

namespace attune {
namespace {

absl::Status NotFinite(int64_t step, const char* what) {
  return MakeError(absl::StatusCode::kInternal, "NAN_LOSS",
                   absl::StrCat("the ", what, " of step ", step + 1,
                                " is no finite number; use a lower learning rate, or float32 precision"));
}

// Of what is free when training begins; the rest is for what comes and goes within a layer.
constexpr double kActivationShare = 0.75;

at::ScalarType PassType(const Hyperparameters& h) { return h.precision == "bfloat16" ? at::kBFloat16 : at::kFloat; }

}  // namespace

Trainer::Trainer(const BaseModel* base, Method* method, const Batcher* batches, const Hyperparameters& h,
                 Arbiter* arbiter, int64_t activation_bytes, JointPasses* joint, const PassOptions& options)
    : base_(base),
      method_(method),
      batches_(batches),
      h_(h),
      arbiter_(arbiter),
      stream_(base->target),
      making_(std::make_unique<OwnStream::Scope>(stream_)),
      flat_(method->parameters(), PassType(h)),
      direct_(base, method, &flat_, PassType(h), method->lora() ? method->lora()->dropout : 0, options),
      optimizer_(method->parameters(), h, &flat_) {
  if (activation_bytes == 0) {
    const Arbiter::Turn turn = TakeTurn();  // asking gives memory back, which no capture elsewhere would survive
    activation_bytes = static_cast<int64_t>(kActivationShare * DeviceMemoryBytes(base->target));
  }
  activation_bytes_ = activation_bytes;
  if (base->target.device == ComputeTarget::Device::kCuda && cuda::Available()) {
    graphs_ = std::make_unique<PassGraphs>(&direct_, base, PassType(h), activation_bytes);
  }
  // Joint passes hand out gradients in the usual order of parameters.
  const auto& parameters = method->parameters();
  const bool has_rates = std::any_of(parameters.begin(), parameters.end(), [](const Parameter& p) { return p.rate != 1; });
  const bool is_plain = method->lora() && !method->lora()->use_dora && !method->adapter()->changes_vocabulary();
  const bool may_join = joint && is_plain && !has_rates && options.noise_alpha == 0;
  if (may_join) joint_ = joint->Join(base, *method->lora(), PassType(h), &flat_, arbiter);
  Synchronize(base->target);
  making_.reset();
}

Trainer::~Trainer() = default;

Arbiter::Turn Trainer::TakeTurn(Sharing sharing) {
  return arbiter_ ? arbiter_->Acquire(WorkClass::kTraining, sharing) : Arbiter::Turn();
}

void Trainer::PauseIfWanted(Arbiter::Turn* turn) {
  const bool was_exact = std::exchange(pieces_are_exact_, arbiter_->IsGenerating());
  if (!pieces_are_exact_) return turn->SkipPiece();
  // Else the device would be layers behind, and the pause late.
  Synchronize(base_->target);
  if (!was_exact) turn->SkipPiece();
  if (!turn->ShouldPause()) return;
  turn->Release();
  *turn = TakeTurn();
}

class Trainer::Pausing {
 public:
  Pausing(Trainer* trainer, Arbiter::Turn* turn) : pass_(&trainer->direct_) {
    if (trainer->arbiter_) pass_->SetPause([trainer, turn] { trainer->PauseIfWanted(turn); });
  }
  ~Pausing() { pass_->SetPause(nullptr); }

 private:
  DirectPass* const pass_;
};

Sharing Trainer::SharingOf(const PackedMicroBatch& batch, bool is_first) const {
  const bool shares = graphs_ && IsShortPass(base_->config, batch.tokens) && graphs_->IsReplay(batch, is_first);
  return shares ? Sharing::kShared : Sharing::kAlone;
}

// A job that is short of memory keeps less of each layer than a joint pass does.
bool Trainer::JoinsOthers(const PackedMicroBatch& batch) const {
  if (!joint_ || !joint_->HasCompany() || !IsShortPass(base_->config, batch.tokens)) return false;
  const std::vector<Keep> keep = ChooseKeep(base_->config, batch.shape.tokens,
                                            static_cast<int64_t>(at::elementSize(PassType(h_))), activation_bytes_);
  return std::all_of(keep.begin(), keep.end(), [](Keep layer) { return layer == Keep::kAll; });
}

// Micro-batches of a step draw their dropout from this and the following seeds.
uint64_t Trainer::FirstSeed(int64_t step) const {
  return (static_cast<uint64_t>(*h_.seed) * 1000003u + step) * 1009u + 1;
}

bool Trainer::MakeRoom() {
  if (!graphs_) return false;
  const Arbiter::Turn turn = TakeTurn();
  return graphs_->DropAll();
}

template <typename Body>
auto Trainer::WithRoom(const Body& body) {
  std::exception_ptr failure;
  try {
    return body();
  } catch (const c10::OutOfMemoryError&) {
    failure = std::current_exception();
  }
  if (!MakeRoom()) std::rethrow_exception(failure);
  return body();
}

void Trainer::RefreshOnce() {
  if (std::exchange(is_fresh_, true)) return;
  flat_.Refresh();
  Synchronize(base_->target);  // a joint pass reads it on another stream
}

Trainer::PreparedStep Trainer::Prepare(int64_t step) const {
  PreparedStep prepared{.step = step};
  const std::vector<MicroBatch> batches = batches_->Step(step);
  for (const MicroBatch& batch : batches) {
    prepared.tokens += batch.tokens.size();
    prepared.loss_tokens += batch.targets.size();
    prepared.pairs += batch.reference_margins.size();
  }
  int64_t seed = static_cast<int64_t>(FirstSeed(step));
  for (const MicroBatch& batch : batches) {
    const int64_t batch_seed = seed++;
    if (batch.targets.empty()) continue;
    if (joint_) {
      prepared.unpacked.push_back(batch);
      prepared.seeds.push_back(batch_seed);
    }
    if (graphs_) {
      prepared.batches.push_back(graphs_->Pack(batch, batch_seed, prepared.divisor()));
      continue;
    }
    const PassShape shape = ExactShape(batch);
    prepared.batches.push_back({shape, PackBatch(batch, shape, batch_seed, prepared.divisor(), /*pinned=*/false),
                                static_cast<int64_t>(batch.tokens.size())});
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

DirectPass::Result Trainer::RunPass(const PackedMicroBatch& batch, bool is_first, Arbiter::Turn* turn) {
  if (graphs_) {
    // Replays of short passes are shared, and over before it counts.
    const bool pauses = arbiter_ && !(batch.is_captured && IsShortPass(base_->config, batch.tokens));
    return graphs_->Run(batch, is_first, pauses ? [this, turn] { PauseIfWanted(turn); } : std::function<void()>());
  }
  const Pausing pausing(this, turn);
  const int64_t element = static_cast<int64_t>(at::elementSize(PassType(h_)));
  const bool has_host = base_->target.device == ComputeTarget::Device::kCuda;
  return direct_.Run(ViewBatch(batch.packed.to(DeviceOf(base_->target)), batch.shape, batch.packed),
                     ChooseKeep(base_->config, batch.shape.tokens, element, activation_bytes_, has_host), is_first);
}

absl::StatusOr<Trainer::StepSums> Trainer::Accumulate(const PreparedStep& step, bool may_join) {
  RefreshOnce();
  StepSums sums;
  for (size_t i = 0; i < step.batches.size(); ++i) {
    const PackedMicroBatch& batch = step.batches[i];
    const bool is_first = i == 0, joins = may_join && JoinsOthers(batch);
    if (joins) {
      // What this job's own graphs keep is what its part of a joint pass takes.
      if (!std::exchange(has_joined_, true)) MakeRoom();
      sums.was_joint = true;
      sums.loss += joint_->Run(step.unpacked[i], step.seeds[i], step.loss_tokens, is_first);
    } else {
      has_joined_ = false;
      Arbiter::Turn turn = TakeTurn(SharingOf(batch, is_first));
      const DirectPass::Result result = RunPass(batch, is_first, &turn);
      sums.loss += result.loss_sum.item<double>();  // waits for the pass
      if (step.pairs > 0) {
        sums.margin += result.margin_sum.item<double>();
        sums.correct += result.correct.item<int64_t>();
      }
    }
    if (!std::isfinite(sums.loss)) {
      if (!sums.was_joint) return NotFinite(step.step, "loss");
      return sums;
    }
  }
  return sums;
}

absl::Status Trainer::Take(const PreparedStep& step, bool may_join, StepSums* sums, StepResult* result) {
  // From its first micro-batch on, which takes no notice of gradients that a failed try left.
  ATTUNE_ASSIGN_OR_RETURN(*sums, WithRoom([&] { return Accumulate(step, may_join); }));
  if (!std::isfinite(sums->loss)) return NotFinite(step.step, "loss");
  result->loss = step.loss_tokens ? sums->loss / step.divisor() : 0;
  if (step.pairs > 0) {
    result->reward_margin = sums->margin / step.pairs;
    result->preference_accuracy = static_cast<double>(sums->correct) / step.pairs;
  }
  if (step.loss_tokens == 0) return absl::OkStatus();  // nothing to learn from: nothing changes
  // Many parameters' step fills the device; few ones' is over before it counts.
  const Arbiter::Turn turn = TakeTurn(graphs_ ? Sharing::kShared : Sharing::kAlone);
  result->gradient_norm = optimizer_.Step(result->learning_rate);
  return std::isfinite(result->gradient_norm) ? absl::OkStatus() : NotFinite(step.step, "gradient");
}

absl::StatusOr<StepResult> Trainer::Step(int64_t step) {
  StepResult result;
  result.learning_rate = LearningRate(h_, step, h_.max_steps);
  const OwnStream::Scope scope(stream_);
  absl::Status status = CatchTorch([&]() -> absl::Status {
    const PreparedStep prepared = TakePrepared(step);
    result.tokens = prepared.tokens;
    result.loss_tokens = prepared.loss_tokens;
    StepSums sums;
    const absl::Status taken = Take(prepared, /*may_join=*/true, &sums, &result);
    // It may have been another job's numbers: nothing has changed yet.
    const bool again = !taken.ok() && sums.was_joint && GetErrorDetails(taken).reason == "NAN_LOSS";
    return again ? Take(prepared, /*may_join=*/false, &sums, &result) : taken;
  });
  if (!status.ok()) return status;
  return result;
}

DirectPass::Result Trainer::EvaluatePass(const PassBatch& batch) {
  Arbiter::Turn turn = TakeTurn();
  const Pausing pausing(this, &turn);
  const DirectPass::Result found = direct_.Evaluate(batch);
  Synchronize(base_->target);
  return found;
}

absl::StatusOr<ValidationResult> Trainer::Evaluate(const Batcher& batches, const std::function<bool()>& stop) {
  ValidationResult result;
  int64_t tokens = 0, pairs = 0, correct = 0;
  const OwnStream::Scope scope(stream_);
  absl::Status status = CatchTorch([&]() -> absl::Status {
    RefreshOnce();
    for (const MicroBatch& batch : batches.All()) {
      if (stop && stop()) return absl::CancelledError("stopped while evaluating");
      if (batch.targets.empty()) continue;
      const PassShape shape = ExactShape(batch);
      const at::Tensor packed = PackBatch(batch, shape, 0, batch.targets.size(), /*pinned=*/false);
      const PassBatch moved = ViewBatch(packed.to(DeviceOf(base_->target)), shape, packed);
      const DirectPass::Result found = WithRoom([&] { return EvaluatePass(moved); });
      result.loss += found.loss_sum.item<double>();
      correct += found.correct.item<int64_t>();
      tokens += batch.targets.size();
      pairs += batch.reference_margins.size();
      if (found.margin_sum.defined()) result.reward_margin += found.margin_sum.item<double>();
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  const int64_t count = std::max<int64_t>(1, pairs > 0 ? pairs : tokens);
  result.loss /= count;
  result.reward_margin /= count;
  (pairs > 0 ? result.preference_accuracy : result.token_accuracy) = static_cast<double>(correct) / count;
  return result;
}

absl::StatusOr<std::vector<double>> Trainer::ScoreAnswers(const Batcher& batches, int64_t examples,
                                                          const std::function<bool()>& stop) {
  const OwnStream::Scope scope(stream_);
  is_fresh_ = false;
  auto score = [&](const PassBatch& batch) {
    return WithRoom([&] {
      Arbiter::Turn turn = TakeTurn();
      const Pausing pausing(this, &turn);
      return direct_.Losses(batch).cpu();
    });
  };
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    RefreshOnce();
    return absl::OkStatus();
  }));
  absl::StatusOr<std::vector<double>> scores = SumAnswers(batches, examples, base_->target, score, stop);
  is_fresh_ = false;  // the parameters may be others when training begins
  return scores;
}

}  // namespace attune
