#include "server/model/kernels/head_norm.h"

#include <ATen/ATen.h>

#include "server/model/kernels/elementwise.h"

namespace attune {
namespace {

using at::Tensor;

// Columns of a packed product, a row for each head: always a copy.
Tensor HeadRows(const Tensor& qkv, int64_t first, int64_t columns, int64_t head_dim) {
  return qkv.narrow(1, first, columns).clone(at::MemoryFormat::Contiguous).view({-1, head_dim});
}

void PutRows(const Tensor& rows, const Tensor& qkv, int64_t first, int64_t columns) {
  qkv.narrow(1, first, columns).copy_(rows.view({-1, columns}));
}

}  // namespace

Tensor HeadNorms(const Tensor& qkv, const AttentionShape& shape, const Tensor& q_A, const Tensor& k_A,
                 double epsilon) {
  const int64_t q = shape.q_size(), kv = shape.kv_size();
  const Tensor queries = RmsNorm(HeadRows(qkv, 0, q, shape.head_dim), q_A, epsilon);
  const Tensor keys = RmsNorm(HeadRows(qkv, q, kv, shape.head_dim), k_A, epsilon);
  return at::cat({queries.view({-1, q}), keys.view({-1, kv}), qkv.narrow(1, q + kv, kv)}, 1);
}

void HeadNormsForward(const Tensor& qkv, const AttentionShape& shape, const Tensor& q_A, const Tensor& k_A,
                      double epsilon, HeadNormState* state) {
  const int64_t q = shape.q_size(), kv = shape.kv_size();
  state->queries_SA = HeadRows(qkv, 0, q, shape.head_dim);
  state->keys_SA = HeadRows(qkv, q, kv, shape.head_dim);
  PutRows(RmsNormForward(state->queries_SA, q_A, epsilon, &state->inverse_rms_q_S), qkv, 0, q);
  PutRows(RmsNormForward(state->keys_SA, k_A, epsilon, &state->inverse_rms_k_S), qkv, q, kv);
}

void HeadNormsBackward(const Tensor& dqkv, const AttentionShape& shape, const Tensor& q_A, const Tensor& k_A,
                       const HeadNormState& state, const Tensor& dq_A, const Tensor& dk_A) {
  const int64_t q = shape.q_size(), kv = shape.kv_size();
  PutRows(RmsNormBackward(HeadRows(dqkv, 0, q, shape.head_dim), state.queries_SA, q_A, state.inverse_rms_q_S, Tensor(),
                          dq_A), dqkv, 0, q);
  PutRows(RmsNormBackward(HeadRows(dqkv, q, kv, shape.head_dim), state.keys_SA, k_A, state.inverse_rms_k_S, Tensor(),
                          dk_A), dqkv, q, kv);
}

}  // namespace attune
