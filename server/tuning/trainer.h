#ifndef ATTUNE_SERVER_TUNING_TRAINER_H_
#define ATTUNE_SERVER_TUNING_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/data/batcher.h"
#include "server/device/arbiter.h"
#include "server/jobs/job.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/optimizer.h"

namespace attune {

class DirectPass;
class PassGraphs;

struct StepResult {
  double loss = 0;  // mean over the step's answer tokens, nats
  int64_t tokens = 0, loss_tokens = 0;
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
};

struct ValidationResult {
  double loss = 0;            // mean over answer tokens, nats
  double token_accuracy = 0;  // 0 to 1
};

// Takes optimizer steps of one method over one stream of batches. The loss of a step
// is the mean over all its answer tokens, however it is cut into micro-batches. Each
// group of micro-batches takes one turn on the device. On the CPU a group has one
// micro-batch for each thread, which waits for no other, unless that would leave half
// of the threads idle: then they run one after the other, each on all threads. Where
// gradients are too large to keep one copy a thread, groups have one micro-batch.
// Gradients are summed in a fixed order. On a GPU, methods that train no weight of the
// base model run as a DirectPass, the others under autograd. Not thread-safe.
class Trainer {
 public:
  // All arguments must outlive this; `arbiter` may be null. REQUIRES: `h` is resolved. A
  // DirectPass computes activations again that do not fit into `activation_bytes`; 0: a
  // share of the memory that is free now.
  Trainer(const BaseModel* base, Method* method, const Batcher* batches, const Hyperparameters& h, Arbiter* arbiter,
          int64_t activation_bytes = 0);
  ~Trainer();

  // Takes step number `step` (from 0). INTERNAL (NAN_LOSS) if loss or gradient is no
  // finite number: the parameters are then as before the step. RESOURCE_EXHAUSTED
  // (OUT_OF_MEMORY) likewise.
  absl::StatusOr<StepResult> Step(int64_t step);

  // Loss and accuracy over all examples of `batches`, no dropout. `stop` is asked
  // between micro-batches; true gives CANCELLED.
  absl::StatusOr<ValidationResult> Evaluate(const Batcher& batches, const std::function<bool()>& stop);

  AdamW& optimizer() { return optimizer_; }

 private:
  struct Pass {
    at::Tensor loss_sum;
    int64_t correct = 0;
  };
  // What a micro-batch of a step leaves: nothing in `gradients` if it has no loss.
  struct Part {
    double loss = 0;
    std::vector<at::Tensor> gradients;
  };
  Pass Forward(const MicroBatch& batch, double dropout, uint64_t dropout_seed);
  Part ForwardBackward(const MicroBatch& batch, double dropout, uint64_t dropout_seed, int64_t loss_tokens);
  // Adds to the leaves' gradients, part by part.
  void AddGradients(const std::vector<Part>& parts);
  Arbiter::Turn TakeTurn();
  // The sum of the step's losses, with gradients left for the optimizer: recorded by
  // autograd, or by hand on a GPU. INTERNAL (NAN_LOSS).
  absl::StatusOr<double> AccumulateRecorded(const std::vector<Batcher::Group>& groups, int64_t step,
                                            int64_t loss_tokens);
  absl::StatusOr<double> AccumulateDirect(const std::vector<Batcher::Group>& groups, int64_t step, int64_t loss_tokens);
  uint64_t FirstSeed(int64_t step) const;
  void ClearGradients();

  const BaseModel* const base_;
  Method* const method_;
  const Batcher* const batches_;
  const Hyperparameters h_;
  Arbiter* const arbiter_;
  std::vector<at::Tensor> leaves_;
  const int64_t ways_;  // micro-batches side by side
  // On a GPU, for methods that train no weight of the base model; null else.
  std::unique_ptr<FlatParameters> flat_;
  std::unique_ptr<DirectPass> direct_;
  std::unique_ptr<PassGraphs> graphs_;
  AdamW optimizer_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_TRAINER_H_
