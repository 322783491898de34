#ifndef ATTUNE_SERVER_MODEL_KERNELS_BLOCKED_ATTENTION_H_
#define ATTUNE_SERVER_MODEL_KERNELS_BLOCKED_ATTENTION_H_

#include "server/model/kernels/attention.h"

namespace attune {

// Queries of a block: its scores are heads x so many x tokens.
inline constexpr int64_t kBlockedQueries = 128;

// Attention with rotary embedding through ATen, a block of queries at a time over all keys of the batch: any type,
// device, window and soft cap; for those that no kernel takes. Time is quadratic in the batch's tokens, memory linear. Arguments
// as of PackedAttentionForward and Backward; of `sequences` the positions alone are read, on the device, so that a captured
// pass may run it. Computes in fp32, or fp64 where the matrices are. No autograd.
at::Tensor BlockedAttentionForward(const at::Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                                   const PackedSequences& sequences, at::Tensor log_sums);
at::Tensor BlockedAttentionBackward(const AttentionState& state, const at::Tensor& dout_TQ, const AttentionShape& shape,
                                    const RopeTable& rope, const PackedSequences& sequences);

// What log_sums, T x heads, are in.
at::ScalarType SumTypeOf(const at::Tensor& qkv_TE);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_BLOCKED_ATTENTION_H_
