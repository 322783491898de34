#ifndef ATTUNE_TESTS_TESTING_RANDOM_MODEL_H_
#define ATTUNE_TESTS_TESTING_RANDOM_MODEL_H_

#include <ATen/ATen.h>

#include <memory>
#include <utility>

#include "server/model/base_model.h"
#include "server/model/kernels/quantized_matrix.h"
#include "server/model/rope.h"
#include "server/model/torch_target.h"

namespace attune {

// A model of this shape with random weights and no tokenizer, as large as wanted.
// REQUIRES: `config` has layers, sizes, heads, vocab, context and tied_head.
inline std::shared_ptr<const BaseModel> MakeRandomModel(const ModelConfig& config, const ComputeTarget& target,
                                                        WeightFormat format = WeightFormat::kDense) {
  auto base = std::make_shared<BaseModel>();
  const ModelConfig& c = base->config = config;
  base->target = target;
  base->format = format;
  const at::TensorOptions options = at::TensorOptions(TypeOf(target)).device(DeviceOf(target));
  auto random = [&](at::IntArrayRef sizes) { return at::empty(sizes, options).normal_(0, 0.02); };
  DecoderWeights& w = base->weights;
  w.embedding_VD = random({c.vocab, c.hidden});
  const at::TensorOptions norms = c.norm_offset != 0 ? options.dtype(at::kFloat) : options;
  w.final_norm_D = at::ones({c.hidden}, norms);
  w.head_VD = c.tied_head ? w.embedding_VD : random({c.vocab, c.hidden});
  w.tiled_head = TileForDecoding(w.head_VD, target);
  for (int64_t i = 0; i < c.layers; ++i) {
    LayerWeights layer;
    layer.attention_norm_D = at::ones({c.hidden}, norms);
    layer.ffn_norm_D = at::ones({c.hidden}, norms);
    if (c.post_norms) layer.post_attention_norm_D = 1 + 0.2 * at::randn({c.hidden}, norms);
    if (c.post_norms) layer.post_ffn_norm_D = 1 + 0.2 * at::randn({c.hidden}, norms);
    if (c.qk_norm) layer.q_norm_A = 1 + 0.2 * at::randn({c.head_dim}, norms);
    if (c.qk_norm) layer.k_norm_A = 1 + 0.2 * at::randn({c.head_dim}, norms);
    layer.linear = {random({c.qkv_size(), c.hidden}), random({c.hidden, c.q_size()}),
                    random({2 * c.intermediate, c.hidden}), random({c.hidden, c.intermediate})};
    for (int l = 0; l < kLinears; ++l) {
      if (HasBias(c, static_cast<Linear>(l))) layer.bias[l] = at::randn({layer.linear[l].size(0)}, options) * 0.05;
    }
    for (int l = 0; l < kLinears && format != WeightFormat::kDense; ++l) {
      const cuda::Codes codes = format == WeightFormat::kInt8 ? cuda::Codes::kInt8 : cuda::Codes::kNf4;
      const at::Tensor dense = std::exchange(layer.linear[l], {});
      layer.quantized[l] = std::make_shared<QuantizedMatrix>(Quantize(dense, codes, options.device()));
    }
    for (int l = 0; l < kLinears && format == WeightFormat::kDense; ++l) layer.tiled[l] = TileForDecoding(layer.linear[l], target);
    w.layers.push_back(std::move(layer));
  }
  const at::Tensor angles = at::outer(at::arange(c.context, at::kFloat),
                                      at::pow(10000.0, -at::arange(c.head_dim / 2, at::kFloat) * 2 / c.head_dim));
  base->rope_cos_PH = angles.cos().to(options.device());
  base->rope_sin_PH = angles.sin().to(options.device());
  if (c.local_rope_theta > 0) {
    const RopeTable local = MakeRopeTables(c).local;
    base->local_rope_cos_PH = local.cos_PH.to(options.device());
    base->local_rope_sin_PH = local.sin_PH.to(options.device());
  }
  return base;
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_RANDOM_MODEL_H_
