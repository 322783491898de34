#include "server/adapters/packed_ops.h"

#include <ATen/ATen.h>

#include "server/adapters/dora.h"
#include "server/adapters/vocabulary.h"
#include "server/model/kernels/cuda/mixed_bits.h"
#include "server/model/kernels/lora_linear.h"
#include "server/model/torch_target.h"

namespace attune {

at::Tensor PackedOps::MultiplyLora(const LoraAdapter& lora, int64_t layer, Linear which, const at::Tensor& x,
                                   const at::Tensor& w) const {
  std::vector<LoraTerm> terms;
  for (int p = 0; p < kProjections; ++p) {
    const LoraModule& module = lora.layers[layer][p];
    const ProjectionSlice slice = SliceOf(config_, static_cast<Projection>(p));
    if (slice.linear == which && module.defined()) {
      terms.push_back({module.a_RI, module.b_OR, module.scale, slice.row});
    }
  }
  // Each product of each layer draws its own mask.
  const uint32_t stream = DropoutSeed(static_cast<int64_t>(dropout_seed_), layer * kLinears + static_cast<uint32_t>(which));
  const at::Tensor y = LoraLinear(x, w, terms, dropout_, stream);
  return lora.use_dora ? WithMagnitudes(lora.layers[layer], which, w, y) : y;
}

at::Tensor PackedOps::WithMagnitudes(const std::array<LoraModule, kProjections>& modules, Linear which, const at::Tensor& w,
                                     const at::Tensor& y) const {
  std::vector<at::Tensor> parts;
  for (int p = 0; p < kProjections; ++p) {
    const ProjectionSlice slice = SliceOf(config_, static_cast<Projection>(p));
    if (slice.linear != which) continue;
    at::Tensor part = y.narrow(1, slice.row, slice.rows);
    const LoraModule& module = modules[p];
    if (module.magnitude_O.defined()) {
      const at::Tensor scale = module.output_scale_O.defined()
                                   ? module.output_scale_O
                                   : module.magnitude_O / RowNorms(w.narrow(0, slice.row, slice.rows), module);
      part = part * scale.to(y.scalar_type());
    }
    parts.push_back(part);
  }
  return at::cat(parts, 1);
}

at::Tensor PackedOps::MultiplyScaled(const Ia3Adapter::Layer& scales, Linear which, at::Tensor x,
                                     const at::Tensor& w, const at::Tensor& bias) const {
  if (which == Linear::kDown && scales.inner_I.defined()) x = x * scales.inner_I.to(x.scalar_type());
  at::Tensor y = at::linear(x, w);
  if (bias.defined()) y = y + bias;
  std::vector<at::Tensor> parts;
  for (int p = 0; p < kProjections; ++p) {
    const ProjectionSlice slice = SliceOf(config_, static_cast<Projection>(p));
    if (slice.linear != which) continue;
    const at::Tensor part = y.narrow(1, slice.row, slice.rows), &scale = scales.output[p];
    parts.push_back(scale.defined() ? part * scale.to(y.scalar_type()) : part);
  }
  return at::cat(parts, 1);
}

at::Tensor PackedOps::WithPrefix(const Prefix& prefix, int64_t layer, const at::Tensor& qkv_TE) const {
  const int64_t keys = config_.q_size(), columns = 2 * config_.kv_size();
  const at::Tensor trained = at::embedding(prefix.keys_values_LNE[layer], (-1 - ids_T_).clamp_min(0));
  const at::Tensor mixed = at::where(ids_T_.lt(0).unsqueeze(1), trained.to(qkv_TE.scalar_type()),
                                     qkv_TE.narrow(1, keys, columns));
  return at::cat({qkv_TE.narrow(1, 0, keys), mixed}, 1);
}

at::Tensor PackedOps::Multiply(int64_t layer, Linear which, const at::Tensor& x) {
  const LayerWeights& weights = weights_.layers[layer];
  const at::Tensor w = LinearWeight(weights, which, x.scalar_type());
  at::Tensor bias = weights.bias[static_cast<int>(which)];
  if (bias.defined()) bias = bias.to(x.scalar_type());
  if (adapter_ && adapter_->ia3) return MultiplyScaled(adapter_->ia3->layers[layer], which, x, w, bias);
  const at::Tensor y =
      adapter_ && adapter_->lora ? MultiplyLora(*adapter_->lora, layer, which, x, w) : at::linear(x, w);
  return bias.defined() ? y + bias : y;
}

at::Tensor PackedOps::Attend(int64_t layer, at::Tensor qkv_TE) {
  if (adapter_ && adapter_->prefix) qkv_TE = WithPrefix(*adapter_->prefix, layer, qkv_TE);
  return PackedAttention(qkv_TE, AttentionShapeOf(config_, layer), rope_.Of(config_, layer), sequences_);
}

at::Tensor EmbedTokens(const ModelConfig& config, const at::Tensor& embedding_VD, const at::Tensor& soft_prompt_ND,
                       const at::Tensor& ids_T, at::ScalarType type) {
  const at::Tensor x = EmbedRows(config, embedding_VD, ids_T.clamp_min(0), type);
  if (!soft_prompt_ND.defined()) return x;
  const at::Tensor is_virtual = ids_T.lt(0);
  // As an embedding: its gradient adds up in a fixed order on GPUs, too.
  at::Tensor prompt = at::embedding(soft_prompt_ND, (-1 - ids_T).clamp_min(0)).to(type);
  return at::where(is_virtual.unsqueeze(1), prompt, x);
}

at::Tensor AllHidden(const BaseModel& base, const Adapter* adapter, absl::Span<const std::vector<int32_t>> sequences) {
  at::NoGradGuard no_grad;
  const int64_t virtual_tokens = adapter ? adapter->virtual_tokens() : 0;
  std::vector<int64_t> ids, bounds = {0};
  for (const std::vector<int32_t>& tokens : sequences) {
    for (int64_t i = 0; i < virtual_tokens; ++i) ids.push_back(-1 - i);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    bounds.push_back(static_cast<int64_t>(ids.size()));
  }
  const at::Device device = DeviceOf(base.target);
  const PackedSequences packed = PackSequences(std::move(bounds), device);
  const RopeTables rope = RopeTablesOf(base);
  const at::Tensor ids_T = at::tensor(ids, at::kLong).to(device);
  PackedOps ops(base.config, base.weights, rope, packed, ids_T, adapter, 0, 0);
  const at::Tensor prompt = adapter && adapter->soft_prompt ? adapter->soft_prompt->embeddings_ND : at::Tensor();
  const at::Tensor x =
      adapter && adapter->changes_vocabulary()
          ? EmbedUnder(base.config, base.weights.embedding_VD, adapter->lora.get(), ids_T, TypeOf(base.target))
          : EmbedTokens(base.config, base.weights.embedding_VD, prompt, ids_T, TypeOf(base.target));
  return RunDecoder(base.config, base.weights, x, &ops);
}

at::Tensor AllLogits(const BaseModel& base, const Adapter* adapter, const std::vector<int32_t>& tokens) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = AllHidden(base, adapter, absl::MakeConstSpan(&tokens, 1));
  const int64_t count = static_cast<int64_t>(tokens.size());
  const at::Tensor last = hidden.narrow(0, hidden.size(0) - count, count);
  const LoraAdapter* lora = adapter ? adapter->lora.get() : nullptr;
  return CapLogits(base.config, LogitsUnder(base.weights.head_VD, lora, last).to(at::kFloat));
}

}  // namespace attune
