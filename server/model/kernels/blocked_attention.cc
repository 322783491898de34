#include "server/model/kernels/blocked_attention.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>

namespace attune {
namespace {

using at::Tensor;

// x of shape T x heads x head_dim, turned by the angles of its tokens' positions, or back.
Tensor Turn(const Tensor& x, const RopeTable& rope, const Tensor& positions_T, bool back) {
  const int64_t half = x.size(2) / 2;
  const Tensor cos = rope.cos_PH.index_select(0, positions_T).unsqueeze(1).to(x.scalar_type());
  Tensor sin = rope.sin_PH.index_select(0, positions_T).unsqueeze(1).to(x.scalar_type());
  if (back) sin = -sin;
  const Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

// Of one pass: queries G x (heads of a group) x T x D, keys and values G x 1 x T x D, G the key/value heads.
struct Operands {
  Operands(const Tensor& qkv, const AttentionShape& shape, const RopeTable& rope, const PackedSequences& sequences)
      : shape(shape), tokens(qkv.size(0)), positions_T(sequences.positions_T), type(SumTypeOf(qkv)) {
    auto part = [&](int64_t column, int64_t heads) {
      return qkv.narrow(1, column, heads * shape.head_dim).reshape({tokens, heads, shape.head_dim}).to(type);
    };
    q = Queries(Turn(part(0, shape.heads), rope, positions_T, false));
    k = Turn(part(shape.q_size(), shape.kv_heads), rope, positions_T, false).transpose(0, 1).unsqueeze(1);
    v = part(shape.q_size() + shape.kv_size(), shape.kv_heads).transpose(0, 1).unsqueeze(1);
    // A sequence begins at each position 0.
    sequence_T = positions_T.eq(0).cumsum(0);
    index_T = at::arange(tokens, positions_T.options());
  }

  // T x heads x D (or x 1) by groups.
  Tensor Queries(const Tensor& x) const {
    return x.transpose(0, 1).reshape({shape.kv_heads, shape.heads / shape.kv_heads, tokens, x.size(2)});
  }
  // And back: T x heads x D.
  Tensor Rows(const Tensor& x) const { return x.reshape({shape.heads, tokens, x.size(3)}).transpose(0, 1); }

  // Scores of the queries [first, first + rows), masked; `*slopes`, if given, what the soft cap's derivatives are.
  Tensor Scores(int64_t first, int64_t rows, Tensor* slopes) const {
    Tensor scores = at::matmul(q.narrow(2, first, rows), k.transpose(2, 3)) * shape.score_scale();
    if (shape.softcap > 0) {
      const Tensor t = (scores / shape.softcap).tanh();
      if (slopes) *slopes = 1 - t * t;
      scores = t * shape.softcap;
    }
    const Tensor own = index_T.narrow(0, first, rows).unsqueeze(1);
    Tensor seen = index_T.le(own).logical_and(sequence_T.eq(sequence_T.narrow(0, first, rows).unsqueeze(1)));
    if (shape.window > 0) seen = seen.logical_and(index_T.gt(own - shape.window));
    return scores.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
  }

  const AttentionShape& shape;
  const int64_t tokens;
  const Tensor positions_T;
  const at::ScalarType type;
  Tensor q, k, v, sequence_T, index_T;
};

template <typename Body>
void ForEachBlock(int64_t tokens, const Body& body) {
  for (int64_t first = 0; first < tokens; first += kBlockedQueries)
    body(first, std::min(kBlockedQueries, tokens - first));
}

}  // namespace

at::ScalarType SumTypeOf(const Tensor& qkv_TE) {
  return qkv_TE.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor BlockedAttentionForward(const Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                               const PackedSequences& sequences, Tensor log_sums) {
  const at::NoGradGuard no_grad;
  const Operands in(qkv_TE, shape, rope, sequences);
  const Tensor y = at::empty_like(in.q);
  // Of its own: as a view of log_sums it could be copied back only where both had the same strides.
  const Tensor sums = at::empty({shape.kv_heads, shape.heads / shape.kv_heads, in.tokens, 1}, log_sums.options());
  ForEachBlock(in.tokens, [&](int64_t first, int64_t rows) {
    const Tensor scores = in.Scores(first, rows, nullptr);
    const Tensor sum = scores.logsumexp(3, /*keepdim=*/true);
    y.narrow(2, first, rows).copy_(at::matmul((scores - sum).exp(), in.v));
    sums.narrow(2, first, rows).copy_(sum);
  });
  log_sums.copy_(in.Rows(sums).squeeze(2));
  return in.Rows(y).reshape({in.tokens, shape.q_size()}).to(qkv_TE.scalar_type());
}

Tensor BlockedAttentionBackward(const AttentionState& state, const Tensor& dout_TQ, const AttentionShape& shape,
                                const RopeTable& rope, const PackedSequences& sequences) {
  const at::NoGradGuard no_grad;
  const Operands in(state.qkv_TE, shape, rope, sequences);
  auto queries = [&](const Tensor& x) { return in.Queries(x.view({in.tokens, shape.heads, -1}).to(in.type)); };
  const Tensor dy = queries(dout_TQ), sums = in.Queries(state.log_sums.unsqueeze(2));
  const Tensor delta = (dy * queries(state.out_TQ)).sum(3, /*keepdim=*/true);
  const Tensor dq = at::empty_like(in.q), dk = at::zeros_like(in.k), dv = at::zeros_like(in.v);
  ForEachBlock(in.tokens, [&](int64_t first, int64_t rows) {
    auto block = [&](const Tensor& x) { return x.narrow(2, first, rows); };
    Tensor slopes;
    const Tensor p = (in.Scores(first, rows, &slopes) - block(sums)).exp();
    dv.add_(at::matmul(p.transpose(2, 3), block(dy)).sum(1, /*keepdim=*/true));
    Tensor ds = p * (at::matmul(block(dy), in.v.transpose(2, 3)) - block(delta)) * shape.score_scale();
    if (slopes.defined()) ds = ds * slopes;
    block(dq).copy_(at::matmul(ds, in.k));
    dk.add_(at::matmul(ds.transpose(2, 3), block(in.q)).sum(1, /*keepdim=*/true));
  });
  auto rows = [&](const Tensor& x) { return x.squeeze(1).transpose(0, 1); };  // T x kv_heads x D
  const Tensor dqkv =
      at::cat({Turn(in.Rows(dq), rope, in.positions_T, true), Turn(rows(dk), rope, in.positions_T, true), rows(dv)}, 1);
  return dqkv.reshape({in.tokens, -1}).to(state.qkv_TE.scalar_type());
}

}  // namespace attune
