#ifndef ATTUNE_SERVER_TUNING_TRAINER_H_
#define ATTUNE_SERVER_TUNING_TRAINER_H_

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/batcher.h"
#include "server/device/arbiter.h"
#include "server/jobs/job.h"
#include "server/model/own_stream.h"
#include "server/tuning/direct_pass.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/joint_pass.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/optimizer.h"

namespace attune {

class PassGraphs;

struct StepResult {
  double loss = 0;  // mean over the step's answer tokens, or pairs of preferences, nats
  int64_t tokens = 0, loss_tokens = 0;
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  // Of preferences: means over the step's pairs.
  double reward_margin = 0, preference_accuracy = 0;
};

struct ValidationResult {
  double loss = 0;            // mean over answer tokens, or pairs of preferences, nats
  double token_accuracy = 0;  // 0 to 1; 0 of preferences
  // Of preferences: means over all pairs.
  double reward_margin = 0, preference_accuracy = 0;
};

// Takes optimizer steps of one method over one stream of batches, each micro-batch by a
// DirectPass. The loss of a step is the mean over all its answer tokens (of preferences, its pairs), however it is cut
// into micro-batches. Each micro-batch takes one turn on the device, which passes that
// would not fill it share with other trainers': each has a stream of its own, or, where
// `joint` is given, they are one batch (JointPass). Gradients are summed in a fixed order. Not
// thread-safe.
class Trainer {
 public:
  // All arguments must outlive this; `arbiter` and `joint` may be null. REQUIRES: `h` is resolved.
  // Activations that do not fit into `activation_bytes` are computed again; 0: a share of
  // the memory that is free now.
  // `options`: what else the job asks of its passes. REQUIRES: no `joint` with preferences or a teacher.
  Trainer(const BaseModel* base, Method* method, const Batcher* batches, const Hyperparameters& h, Arbiter* arbiter,
          int64_t activation_bytes = 0, JointPasses* joint = nullptr, const PassOptions& options = {});
  ~Trainer();

  // Takes step number `step` (from 0). Parameters may be changed from outside before the
  // first step or evaluation. INTERNAL (NAN_LOSS) if loss or gradient is no
  // finite number: the parameters are then as before the step. RESOURCE_EXHAUSTED
  // (OUT_OF_MEMORY) likewise.
  absl::StatusOr<StepResult> Step(int64_t step);

  // Loss and accuracy over all examples of `batches`, no dropout. `stop` is asked
  // between micro-batches; true gives CANCELLED.
  absl::StatusOr<ValidationResult> Evaluate(const Batcher& batches, const std::function<bool()>& stop);

  // The log-probability of each example's answer, summed over its tokens, nats, as the parameters are now: they may be
  // changed from outside afterwards. `stop` as above.
  absl::StatusOr<std::vector<double>> ScoreAnswers(const Batcher& batches, int64_t examples,
                                                   const std::function<bool()>& stop);

  AdamW& optimizer() { return optimizer_; }
  // Its part of the most memory that passes shared with other jobs took; 0 without such.
  int64_t joint_bytes() const { return joint_ ? joint_->bytes() : 0; }

 private:
  // An optimizer step's data, tokenised, cut and packed: micro-batches without loss are left out.
  struct PreparedStep {
    int64_t step = -1, tokens = 0, loss_tokens = 0;
    int64_t pairs = 0;  // of preferences
    int64_t divisor() const { return pairs > 0 ? pairs : loss_tokens; }
    std::vector<PackedMicroBatch> batches;
    std::vector<MicroBatch> unpacked;  // the same, where they may go into joint passes
    std::vector<int64_t> seeds;
  };
  struct StepSums {
    double loss = 0;
    double margin = 0;    // of preferences
    int64_t correct = 0;  // likewise
    bool was_joint = false;
  };
  Arbiter::Turn TakeTurn(Sharing sharing = Sharing::kAlone);
  // In the middle of a pass: lets generation go first, if it is to.
  void PauseIfWanted(Arbiter::Turn* turn);
  // While `turn` holds, passes offer to pause.
  class Pausing;
  Sharing SharingOf(const PackedMicroBatch& batch, bool is_first) const;
  PreparedStep Prepare(int64_t step) const;
  // Prepared while the step before ran, or now; and the next one is begun.
  PreparedStep TakePrepared(int64_t step);
  DirectPass::Result RunPass(const PackedMicroBatch& batch, bool is_first, Arbiter::Turn* turn);
  // Whether giving up the graphs made room for another try.
  bool MakeRoom();
  // body(), and once more in the graphs' place if it found no room beside them.
  template <typename Body>
  auto WithRoom(const Body& body);
  DirectPass::Result EvaluatePass(const PassBatch& batch);
  // Whether a batch of the step is to go together with other jobs'.
  bool JoinsOthers(const PackedMicroBatch& batch) const;
  // The sum of the step's losses, with gradients left for the optimizer. INTERNAL (NAN_LOSS).
  absl::StatusOr<StepSums> Accumulate(const PreparedStep& step, bool may_join);
  // Accumulates and updates the parameters.
  absl::Status Take(const PreparedStep& step, bool may_join, StepSums* sums, StepResult* result);
  // Before the first pass: a checkpoint may have been loaded since the copy was made.
  void RefreshOnce();
  uint64_t FirstSeed(int64_t step) const;

  const BaseModel* const base_;
  Method* const method_;
  const Batcher* const batches_;
  const Hyperparameters h_;
  Arbiter* const arbiter_;
  const OwnStream stream_;
  // Of the constructor, which makes members on the stream.
  std::unique_ptr<OwnStream::Scope> making_;
  int64_t activation_bytes_ = 0;
  FlatParameters flat_;
  DirectPass direct_;
  std::unique_ptr<PassGraphs> graphs_;  // where there are CUDA kernels
  std::unique_ptr<JointPass::Member> joint_;  // null where passes are never shared
  bool pieces_are_exact_ = false;  // the device was waited for at the last place where a pass could pause
  bool has_joined_ = false;                   // the last pass went together with others'
  bool is_fresh_ = false;  // the compute copy holds what the parameters are
  std::future<PreparedStep> next_;  // the step after the running one, made beside it
  AdamW optimizer_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_TRAINER_H_
