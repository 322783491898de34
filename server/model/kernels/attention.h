#ifndef ATTUNE_SERVER_MODEL_KERNELS_ATTENTION_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace attune {

namespace cudnn {
struct RaggedOffsets;
}

// Shape of an attention layer, and what becomes of its scores.
struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  int64_t window = 0;  // tokens that one sees, itself and those just before it (Beltagy et al. 2020); 0: all before it
  double scale = 0;    // of scores; 0: 1 / sqrt(head_dim)
  double softcap = 0;  // c: a scaled score s becomes c tanh(s / c) (Gemma Team 2024); 0: stays s
  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  double score_scale() const;
  // The first token of its sequence that the one at `position` sees.
  int64_t FirstSeen(int64_t position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
};

// Rotary factors, fp32, one row a position: cos_PH and sin_PH with H = head_dim / 2.
struct RopeTable {
  at::Tensor cos_PH, sin_PH;
};

// Sequences packed one behind the other: tokens [starts[i], starts[i + 1]) are
// sequence i at positions 0, 1, ... No sequence sees another.
struct PackedSequences {
  std::vector<int64_t> starts;  // one more than there are sequences; starts[0] = 0
  at::Tensor positions_T;       // int64, on the device
  at::Tensor starts_int32;      // `starts` on the device, for GPU kernels
  int64_t longest = 0;
  // cuDNN's view of the starts, where its kernels serve; see cudnn_attention.h. Made by PrepareAttention,
  // once for all layers of a pass; without, FlashAttention serves.
  std::shared_ptr<const cudnn::RaggedOffsets> ragged;
  int64_t tokens() const { return starts.back(); }
};

// Builds the tensors from the starts. REQUIRES: starts is strictly rising from 0.
PackedSequences PackSequences(std::vector<int64_t> starts, at::Device device);

// Rotates the query and key columns of qkv_TE in place (the rotate-half form of Su
// et al. 2021). Columns: queries of all heads, keys, values. `inverse` rotates back.
void RopeInPlace(at::Tensor qkv_TE, const AttentionShape& shape, const RopeTable& rope, const at::Tensor& positions_T,
                 bool inverse);

// What the backward half of attention needs of the forward half.
struct AttentionState {
  at::Tensor qkv_TE;  // rotated or not, as the device's kernels like it
  at::Tensor out_TQ, log_sums;
};

// Makes what `sequences` lacks for attention over matrices of the type, device and rows of `like`.
void PrepareAttention(const at::Tensor& like, const AttentionShape& shape, PackedSequences* sequences);

// The halves of PackedAttention, for passes that are differentiated by hand. The
// forward half keeps qkv_TE in `state` and may overwrite it; it returns T x q_size.
at::Tensor PackedAttentionForward(const at::Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                                  const PackedSequences& sequences, AttentionState* state);
// The gradient of qkv_TE as it was before the rotation.
at::Tensor PackedAttentionBackward(const at::Tensor& dout_TQ, const AttentionState& state, const AttentionShape& shape,
                                   const RopeTable& rope, const PackedSequences& sequences);

// Rotary embedding and causal attention within each packed sequence, as `shape` says of its
// window and its scores; query heads share key/value heads in groups. qkv_TE is not
// changed. Takes part in autograd. Returns T x q_size. Memory beyond the output is
// linear in T: scores are recomputed in the backward pass (Dao et al. 2022).
at::Tensor PackedAttention(const at::Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                           const PackedSequences& sequences);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ATTENTION_H_
