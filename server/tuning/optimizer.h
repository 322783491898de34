#ifndef ATTUNE_SERVER_TUNING_OPTIMIZER_H_
#define ATTUNE_SERVER_TUNING_OPTIMIZER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "server/jobs/job.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/moments.h"

namespace attune {

// The learning rate of optimizer step `step` (from 0) of `total`: a linear rise over
// the first warmup_ratio of the steps, then the schedule. As transformers' schedules
// with warm-up, but no step is wasted at rate zero. REQUIRES: `h` is resolved.
double LearningRate(const Hyperparameters& h, int64_t step, int64_t total);

// AdamW (Loshchilov and Hutter 2019) over a method's flat parameters in one kernel, the
// same update as torch.optim.AdamW. Its state is in fp32 or, by `h.optimizer_state`, in 8
// bits. Not thread-safe.
class AdamW {
 public:
  // REQUIRES: `h` is resolved. `flat`, made of these parameters, must outlive this.
  AdamW(const std::vector<Parameter>& parameters, const Hyperparameters& h, const FlatParameters* flat);

  // Clips the gradients' global L2 norm (transformers' rule) and updates the parameters
  // with their copy. Returns the norm before clipping; if that is no finite number,
  // nothing is updated. The gradients stay as they are.
  double Step(double learning_rate);

  // For checkpoints.
  std::vector<StateTensor> State() const { return moments_->State(); }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  // Neighbours in the flat parameters that have one learning rate.
  struct Run {
    int64_t first, count;
    double rate;
  };
  at::Tensor GradientNorm() const;

  const Hyperparameters h_;
  const FlatParameters* const flat_;
  const std::unique_ptr<Moments> moments_;
  std::vector<Run> runs_;
  int64_t steps_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_OPTIMIZER_H_
