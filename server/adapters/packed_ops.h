#ifndef ATTUNE_SERVER_ADAPTERS_PACKED_OPS_H_
#define ATTUNE_SERVER_ADAPTERS_PACKED_OPS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/adapters/adapter.h"
#include "server/model/decoder.h"
#include "server/model/rope.h"

namespace attune {

// A decoder layer over packed whole sequences under one adapter (or none), with
// autograd: the plain way, which others are tested against. Use once per forward pass.
class PackedOps final : public LayerOps {
 public:
  // All arguments must outlive this. `adapter` may be null; one with virtual tokens needs the ids of the rows
  // (EmbedTokens). LoRA's dropout draws its masks from `dropout_seed`; 0 `dropout` turns it off.
  PackedOps(const ModelConfig& config, const DecoderWeights& weights, const RopeTables& rope,
            const PackedSequences& sequences, at::Tensor ids_T, const Adapter* adapter, double dropout,
            uint64_t dropout_seed)
      : config_(config), weights_(weights), rope_(rope), sequences_(sequences), ids_T_(std::move(ids_T)),
        adapter_(adapter), dropout_(dropout), dropout_seed_(dropout_seed) {}

  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x) override;
  at::Tensor Attend(int64_t layer, at::Tensor qkv_TE) override;

 private:
  at::Tensor MultiplyLora(const LoraAdapter& lora, int64_t layer, Linear which, const at::Tensor& x,
                          const at::Tensor& w) const;
  // DoRA's lengths of a product's outputs.
  at::Tensor WithMagnitudes(const std::array<LoraModule, kProjections>& modules, Linear which, const at::Tensor& w,
                            const at::Tensor& y) const;
  // x W^T + b under IA3's scales, of which those of the outputs are the bias's, too.
  at::Tensor MultiplyScaled(const Ia3Adapter::Layer& scales, Linear which, at::Tensor x, const at::Tensor& w,
                            const at::Tensor& bias) const;
  at::Tensor WithPrefix(const Prefix& prefix, int64_t layer, const at::Tensor& qkv_TE) const;

  const ModelConfig& config_;
  const DecoderWeights& weights_;
  const RopeTables& rope_;
  const PackedSequences& sequences_;
  const at::Tensor ids_T_;
  const Adapter* const adapter_;
  const double dropout_;
  const uint64_t dropout_seed_;
};

// Embeds token ids (EmbedRows); id -1 - i is row i of `soft_prompt_ND`, or, without one, stands for a token whose keys and
// values alone matter. ids_T int64 on the weights'
// device; result in type `type`. Takes part in autograd.
at::Tensor EmbedTokens(const ModelConfig& config, const at::Tensor& embedding_VD, const at::Tensor& soft_prompt_ND,
                       const at::Tensor& ids_T, at::ScalarType type);

// Normalised hidden states after every token of sequences that are packed end to end, in the
// model's type, T x D. Each begins with the adapter's virtual tokens, if it has any, whose rows are
// among the T. `adapter` may be null. No autograd.
at::Tensor AllHidden(const BaseModel& base, const Adapter* adapter, absl::Span<const std::vector<int32_t>> sequences);

// Logits after every token of one sequence, fp32, T x V (virtual tokens left out):
// the plain path that tests and references compare with. `adapter` may be null.
at::Tensor AllLogits(const BaseModel& base, const Adapter* adapter, const std::vector<int32_t>& tokens);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_PACKED_OPS_H_
