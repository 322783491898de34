#include "server/model/decoder.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "server/model/kernels/elementwise.h"
#include "server/model/kernels/head_norm.h"

namespace attune {

namespace {

// The norm of what a part of the layer adds, where there is one.
at::Tensor PostNorm(const ModelConfig& config, const at::Tensor& weight_D, at::Tensor y_TD) {
  return weight_D.defined() ? RmsNorm(y_TD, weight_D.to(y_TD.scalar_type()), config.rms_epsilon) : y_TD;
}

}  // namespace

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
    x_TD = x_TD + PostNorm(config, layer.post_attention_norm_D, ops->Multiply(i, Linear::kO, attended));
    normed = RmsNorm(x_TD, layer.ffn_norm_D.to(x_TD.scalar_type()), config.rms_epsilon);
    at::Tensor inner = GatedUnit(ops->Multiply(i, Linear::kGateUp, normed), config.activation);
    x_TD = x_TD + PostNorm(config, layer.post_ffn_norm_D, ops->Multiply(i, Linear::kDown, inner));
  }
  return RmsNorm(x_TD, weights.final_norm_D.to(x_TD.scalar_type()), config.rms_epsilon);
}

double EmbeddingScale(const ModelConfig& config, at::ScalarType type) {
  if (!config.scales_embeddings) return 1;
  const float scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden)));
  return type == at::kBFloat16 ? static_cast<float>(c10::BFloat16(scale)) : scale;
}

at::Tensor EmbedRows(const ModelConfig& config, const at::Tensor& embedding_VD, const at::Tensor& ids_T,
                     at::ScalarType type) {
  const at::Tensor rows = at::embedding(embedding_VD, ids_T);
  if (!config.scales_embeddings) return rows.to(type);
  return (rows * EmbeddingScale(config, rows.scalar_type())).to(type);
}

at::Tensor CapLogits(const ModelConfig& config, const at::Tensor& logits) {
  if (config.logit_softcap <= 0) return logits;
  return (logits / config.logit_softcap).tanh() * config.logit_softcap;
}

AttentionShape AttentionShapeOf(const ModelConfig& config) {
  const double scale = config.query_scalar > 0 ? 1 / std::sqrt(config.query_scalar) : 0;
  // Kernels that take no other scale serve where it says what they do anyway.
  const bool is_usual = config.query_scalar == static_cast<double>(config.head_dim);
  return {config.heads, config.kv_heads, config.head_dim, 0, is_usual ? 0 : scale, config.attention_softcap};
}

AttentionShape AttentionShapeOf(const ModelConfig& config, int64_t layer) {
  AttentionShape shape = AttentionShapeOf(config);
  if (config.Window(layer) < config.context) shape.window = config.Window(layer);
  return shape;
}

}  // namespace attune
