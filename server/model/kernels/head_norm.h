#ifndef ATTUNE_SERVER_MODEL_KERNELS_HEAD_NORM_H_
#define ATTUNE_SERVER_MODEL_KERNELS_HEAD_NORM_H_

#include <ATen/core/Tensor.h>

#include "server/model/kernels/attention.h"

// RMS norms over the head dimension of each query and key of a packed product, as Qwen3 has them before rotary
// embedding; values stay. Weights q_A and k_A of the head dimension, of qkv_TE's type. Thread-safe.
namespace attune {

// Returns T x E. qkv_TE is not changed. Takes part in autograd.
at::Tensor HeadNorms(const at::Tensor& qkv_TE, const AttentionShape& shape, const at::Tensor& q_A,
                     const at::Tensor& k_A, double epsilon);

// What the backward half needs of the forward half: queries and keys as they were, a row each, and the norms'
// statistics, fp32.
struct HeadNormState {
  at::Tensor queries_SA, keys_SA, inverse_rms_q_S, inverse_rms_k_S;
};
// The halves, for passes that are differentiated by hand. Both change their matrix in place: from queries and keys
// to normed ones, and from the gradients of these to those of the former.
void HeadNormsForward(const at::Tensor& qkv_TE, const AttentionShape& shape, const at::Tensor& q_A,
                      const at::Tensor& k_A, double epsilon, HeadNormState* state);
// Adds the gradients of the weights to dq_A and dk_A, fp32, where these are defined.
void HeadNormsBackward(const at::Tensor& dqkv_TE, const AttentionShape& shape, const at::Tensor& q_A,
                       const at::Tensor& k_A, const HeadNormState& state, const at::Tensor& dq_A,
                       const at::Tensor& dk_A);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_HEAD_NORM_H_
