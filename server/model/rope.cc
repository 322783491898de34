#include "server/model/rope.h"

#include <ATen/ATen.h>

#include <vector>

namespace attune {

RopeTable MakeRopeTable(const ModelConfig& config) {
  const std::vector<double> frequencies = RopeFrequencies(config);
  const at::Tensor angle = at::outer(at::arange(config.context, at::kFloat), at::tensor(frequencies, at::kFloat));
  const double factor = config.rope_scaling.attention_factor;
  return {angle.cos() * factor, angle.sin() * factor};
}

}  // namespace attune
