#include "server/model/rope.h"

#include <ATen/ATen.h>

#include <vector>

namespace attune {
namespace {

RopeTable TableOf(const std::vector<double>& frequencies, int64_t context, double factor) {
  const at::Tensor angle = at::outer(at::arange(context, at::kFloat), at::tensor(frequencies, at::kFloat));
  return {angle.cos() * factor, angle.sin() * factor};
}

}  // namespace

RopeTables MakeRopeTables(const ModelConfig& config) {
  RopeTables tables;
  tables.global = TableOf(RopeFrequencies(config), config.context, config.rope_scaling.attention_factor);
  if (config.local_rope_theta > 0) tables.local = TableOf(LocalRopeFrequencies(config), config.context, 1);
  return tables;
}

RopeTables RopeTablesOf(const BaseModel& base) {
  return {{base.rope_cos_PH, base.rope_sin_PH}, {base.local_rope_cos_PH, base.local_rope_sin_PH}};
}

}  // namespace attune
