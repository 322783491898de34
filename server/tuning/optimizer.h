#ifndef ATTUNE_SERVER_TUNING_OPTIMIZER_H_
#define ATTUNE_SERVER_TUNING_OPTIMIZER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "server/jobs/job.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"

namespace attune {

// The learning rate of optimizer step `step` (from 0) of `total`: a linear rise over
// the first warmup_ratio of the steps, then the schedule. As transformers' schedules
// with warm-up, but no step is wasted at rate zero. REQUIRES: `h` is resolved.
double LearningRate(const Hyperparameters& h, int64_t step, int64_t total);

// AdamW (Loshchilov and Hutter 2019) over a method's flat parameters in one kernel, state
// in fp32. Same update as torch.optim.AdamW. Not thread-safe.
class AdamW {
 public:
  // REQUIRES: `h` is resolved. `flat`, made of these parameters, must outlive this.
  AdamW(const std::vector<Parameter>& parameters, const Hyperparameters& h, const FlatParameters* flat);

  // Clips the gradients' global L2 norm (transformers' rule), updates, clears the
  // gradients. Returns the norm before clipping; if that is no finite number, nothing
  // is updated.
  double Step(double learning_rate);

  // One per parameter, in their order; for checkpoints.
  std::vector<at::Tensor>& first_moments() { return first_moments_; }
  std::vector<at::Tensor>& second_moments() { return second_moments_; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  void LaunchStep(double learning_rate, const at::Tensor& norm);
  void AtenStep(double learning_rate, double norm);

  const Hyperparameters h_;
  const FlatParameters* const flat_;
  at::Tensor first_, second_;  // which the moments are views of
  std::vector<at::Tensor> first_moments_, second_moments_;
  int64_t steps_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_OPTIMIZER_H_
