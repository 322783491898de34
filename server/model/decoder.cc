#include "server/model/decoder.h"

#include <ATen/ATen.h>

#include <utility>

#include "server/model/kernels/elementwise.h"
#include "server/model/kernels/head_norm.h"

namespace attune {

at::Tensor RunDecoder(const ModelConfig& config, const DecoderWeights& weights, at::Tensor x_TD, LayerOps* ops) {
  for (int64_t i = 0; i < config.layers; ++i) {
    const LayerWeights& layer = weights.layers[i];
    at::Tensor normed = RmsNorm(x_TD, layer.attention_norm_D.to(x_TD.scalar_type()), config.rms_epsilon);
    at::Tensor qkv = ops->Multiply(i, Linear::kQkv, normed);
    if (config.qk_norm) {
      qkv = HeadNorms(qkv, AttentionShapeOf(config), layer.q_norm_A.to(qkv.scalar_type()),
                      layer.k_norm_A.to(qkv.scalar_type()), config.rms_epsilon);
    }
    at::Tensor attended = ops->Attend(i, std::move(qkv));
    x_TD = x_TD + ops->Multiply(i, Linear::kO, attended);
    normed = RmsNorm(x_TD, layer.ffn_norm_D.to(x_TD.scalar_type()), config.rms_epsilon);
    at::Tensor inner = SwiGlu(ops->Multiply(i, Linear::kGateUp, normed));
    x_TD = x_TD + ops->Multiply(i, Linear::kDown, inner);
  }
  return RmsNorm(x_TD, weights.final_norm_D.to(x_TD.scalar_type()), config.rms_epsilon);
}

}  // namespace attune
