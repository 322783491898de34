#ifndef ATTUNE_SERVER_MODEL_KERNELS_ATTENTION_LOOPS_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ATTENTION_LOOPS_H_

#include "server/model/kernels/attention.h"

namespace attune {

// Attention with rotary embedding on the CPU: fp32 or bf16 matrices, computed in fp32, one
// sequence and key head a thread. Arguments as of PackedAttentionForward and Backward;
// log_sums fp32, T x heads. Results are written to the last tensors, which are contiguous.
void AttentionForwardLoops(const at::Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                           const PackedSequences& sequences, const at::Tensor& out_TQ, const at::Tensor& log_sums);
void AttentionBackwardLoops(const AttentionState& state, const at::Tensor& dout_TQ, const AttentionShape& shape,
                            const RopeTable& rope, const PackedSequences& sequences, const at::Tensor& dqkv_TE);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ATTENTION_LOOPS_H_
