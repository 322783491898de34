#ifndef ATTUNE_SERVER_TUNING_MOMENTS_H_
#define ATTUNE_SERVER_TUNING_MOMENTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/model/kernels/adamw.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"

namespace attune {

// A tensor of an optimizer's state, by the name that keys it in checkpoints.
struct StateTensor {
  std::string name;
  at::Tensor tensor;  // fp32 or uint8
};

// AdamW's two moments over flat parameters, and the update that they take part in; see
// kernels/adamw.h. Not thread-safe.
class Moments {
 public:
  virtual ~Moments() = default;
  // Of `count` parameters from number `first` on. `norm`: of all gradients, an fp32 scalar on the device.
  // REQUIRES, of 8-bit moments: these are all.
  virtual void Update(const cuda::AdamWSettings& settings, const at::Tensor& norm, int64_t first, int64_t count) = 0;
  // Views that a checkpoint saves and restores.
  virtual std::vector<StateTensor> State() const = 0;
};

// In fp32. State by parameter. `flat` must outlive the result.
std::unique_ptr<Moments> MakeMoments(const std::vector<Parameter>& parameters, const FlatParameters* flat);

// In 8 bits, blocks of 256 sharing a scale, over dynamic maps of 256 values that reach
// down to a millionth of the scale (Dettmers et al. 2022). State of all parameters as one.
std::unique_ptr<Moments> Make8BitMoments(const FlatParameters* flat);

// The map's 256 values, rising: both signs, or none below zero.
std::vector<float> DynamicMap(bool both_signs);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_MOMENTS_H_
