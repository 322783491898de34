#ifndef ATTUNE_SERVER_TUNING_JOINT_PARAMETERS_H_
#define ATTUNE_SERVER_TUNING_JOINT_PARAMETERS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"

namespace attune {

// The LoRAs of several jobs as one: each module's A holds the jobs' ranks one below the
// other, its B side by side, so that a product with it is every job's at once. A job's place is
// one of `places` equal parts of each module. Not thread-safe.
class JointParameters {
 public:
  // For jobs whose LoRA is of the shape of `like`, over `base`, which must outlive this.
  // `compute_type` as the jobs'.
  JointParameters(const BaseModel* base, const LoraAdapter& like, int64_t places, at::ScalarType compute_type);
  ~JointParameters();

  const Method* method() const { return method_.get(); }
  const FlatParameters* flat() const { return &flat_; }

  // Copies a job's parameters to its place. `own` lists them as its LoRA method does.
  void Take(const FlatParameters& own, int64_t place);
  // Gives a job the gradients at its place: adds them, or replaces what is there.
  void Give(const FlatParameters& own, int64_t place, bool adds) const;

 private:
  class JointMethod;
  struct Blocks;

  const std::unique_ptr<const Method> method_;
  FlatParameters flat_;
  const std::unique_ptr<Blocks> blocks_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_JOINT_PARAMETERS_H_
