#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDNN_ATTENTION_H_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDNN_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/model/kernels/attention.h"

// Causal attention of packed sequences by cuDNN's fused kernels, in bf16, faster on Hopper
// than FlashAttention-2 (tests/bench/results). Its gradient of the queries adds up in an order that
// varies. Each new shape (heads, sequences to eight, longest to 128) is planned for some
// tenths of a second at its first call and kept; later calls only launch and may be
// captured. Matrices are contiguous, on the current device. Throws c10::Error if cuDNN
// refuses. Thread-safe.
namespace attune::cudnn {

// False in a build without cuDNN's frontend; then nothing else here may be called.
bool Available();

// Rows that the gradient's workspace has for such a batch: fp32, heads x head_dim each.
int64_t WorkspaceRows(const PackedSequences& sequences);

// Where sequences begin and how long they are, in the units of each operand.
struct RaggedOffsets {
  at::Tensor lengths;             // int32, one a sequence, then zeros up to a multiple of eight
  at::Tensor qkv, q, kv, heads;   // int64, one more than those: the starts, times the row size of each kind of matrix
};
RaggedOffsets OffsetsOf(const PackedSequences& sequences, const AttentionShape& shape);

// Of rotated qkv_TE. Returns T x q_size; fills log_sums_TH (fp32).
at::Tensor AttentionForward(const at::Tensor& qkv_TE, const AttentionShape& shape, const PackedSequences& sequences,
                            const RaggedOffsets& offsets, at::Tensor* log_sums_TH);

struct AttentionGradients {
  at::Tensor dq_TQ, dk_TK, dv_TK;  // of the rotated queries and keys, and of the values
};
AttentionGradients AttentionBackward(const at::Tensor& dout_TQ, const at::Tensor& qkv_TE, const at::Tensor& out_TQ,
                                     const at::Tensor& log_sums_TH, const AttentionShape& shape,
                                     const PackedSequences& sequences, const RaggedOffsets& offsets);

}  // namespace attune::cudnn

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDNN_ATTENTION_H_
