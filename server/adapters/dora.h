#ifndef ATTUNE_SERVER_ADAPTERS_DORA_H_
#define ATTUNE_SERVER_ADAPTERS_DORA_H_

#include <ATen/core/Tensor.h>

#include "server/adapters/adapter.h"

// DoRA, weight-decomposed low-rank adaptation (Liu et al. 2024): W' = m V / |V|, V = W + scale * B A, the norms being those of
// rows, and constants where gradients are taken, as the paper and PEFT do.
namespace attune {

// |V| of each row, fp32, O. w_OI in any floating-point type. No gradient flows into it.
at::Tensor RowNorms(const at::Tensor& w_OI, const LoraModule& module);

// The rows of `layer`'s weights that a projection has, in a type to compute in: a view where they are kept so.
at::Tensor ProjectionWeight(const ModelConfig& config, const LayerWeights& layer, Projection projection, at::ScalarType type);

// Sets output_scale_O of every module that has a magnitude, in its magnitude's type and on its device. Throws what
// libtorch throws.
void PrepareDora(const BaseModel& base, LoraAdapter* lora);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_DORA_H_
