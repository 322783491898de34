#include "server/adapters/dora.h"

#include <ATen/ATen.h>

namespace attune {

at::Tensor RowNorms(const at::Tensor& w_OI, const LoraModule& module) {
  const at::NoGradGuard no_grad;
  const at::Tensor delta = at::matmul(module.b_OR.to(at::kFloat), module.a_RI.to(at::kFloat));
  return at::linalg_vector_norm(w_OI.to(at::kFloat) + delta * module.scale, 2, {1});
}

at::Tensor ProjectionWeight(const ModelConfig& config, const LayerWeights& layer, Projection projection, at::ScalarType type) {
  const ProjectionSlice slice = SliceOf(config, projection);
  return LinearWeight(layer, slice.linear, type).narrow(0, slice.row, slice.rows);
}

void PrepareDora(const BaseModel& base, LoraAdapter* lora) {
  const at::NoGradGuard no_grad;
  for (int64_t layer = 0; layer < base.config.layers; ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      LoraModule& module = lora->layers[layer][p];
      if (!module.magnitude_O.defined()) continue;
      const Projection projection = static_cast<Projection>(p);
      const at::Tensor weight = ProjectionWeight(base.config, base.weights.layers[layer], projection, at::kFloat);
      module.output_scale_O = (module.magnitude_O.to(at::kFloat) / RowNorms(weight, module)).to(module.magnitude_O.scalar_type());
    }
  }
}

}  // namespace attune
