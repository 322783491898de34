#include "server/model/kernels/attention_loops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "server/model/kernels/element.h"
#include "server/model/kernels/fast_math.h"
#include "server/model/kernels/gemm.h"

namespace attune {
namespace {

using Block = std::vector<float>;

// Query rows that are worked on together: the scores block stays in the cache and
// keys above the diagonal's block are never touched.
constexpr int64_t kRowBlock = 64;

// Rows of queries that are worked on together, and the keys that any of them sees: a block of scores, rows x keys.
struct ScoreBlock {
  ScoreBlock(const AttentionShape& shape, int64_t first_row, int64_t length)
      : shape(shape), first_row(first_row), rows(std::min(kRowBlock, length - first_row)),
        first_key(shape.FirstSeen(first_row)), keys(first_row + rows - first_key) {}
  // Columns [first, last) of row r are seen.
  int64_t First(int64_t r) const { return shape.FirstSeen(first_row + r) - first_key; }
  int64_t Last(int64_t r) const { return first_row + r + 1 - first_key; }

  const AttentionShape& shape;
  const int64_t first_row, rows, first_key, keys;
};

// Scores under the soft cap, in place; `slopes`, if given, gets the derivatives.
void CapScores(const ScoreBlock& block, float* s, float* slopes) {
  const float cap = static_cast<float>(block.shape.softcap);
  if (cap <= 0) return;
  for (int64_t i = 0; i < block.rows * block.keys; ++i) {
    const float t = std::tanh(s[i] / cap);
    s[i] = cap * t;
    if (slopes) slopes[i] = 1 - t * t;
  }
}

// Softmax of a block's rows in place; what a row does not see becomes zero. With `lse` given, uses those
// log-sums; else computes and writes them to `lse_out`.
void SoftmaxRows(const ScoreBlock& block, float* s, const float* lse, float* lse_out, int64_t lse_stride) {
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t first = block.First(r), n = block.Last(r) - first;
    std::fill(s + r * block.keys, s + r * block.keys + first, 0.0f);
    float* row = s + r * block.keys + first;
    if (lse) {
      const float l = lse[r * lse_stride];
      for (int64_t j = 0; j < n; ++j) row[j] = FastExp(row[j] - l);
    } else {
      float top = row[0];
      for (int64_t j = 1; j < n; ++j) top = std::max(top, row[j]);
      float sum = 0;
      for (int64_t j = 0; j < n; ++j) row[j] = FastExp(row[j] - top);
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < n; ++j) sum += row[j];
      const float inverse = 1.0f / sum;
      for (int64_t j = 0; j < n; ++j) row[j] *= inverse;
      lse_out[r * lse_stride] = top + std::log(sum);
    }
    std::fill(row + n, s + (r + 1) * block.keys, 0.0f);
  }
}

// Copies a head's columns from tokens [begin, end) of a row-major matrix, rotated if
// `rope` is set, into a contiguous block of the same row order.
template <typename T>
void Gather(const T* source, int64_t stride, int64_t begin, int64_t end, int64_t head_dim, const RopeTable* rope,
            float* out) {
  const int64_t half = head_dim / 2;
  const float* cos = rope ? rope->cos_PH.const_data_ptr<float>() : nullptr;
  const float* sin = rope ? rope->sin_PH.const_data_ptr<float>() : nullptr;
  for (int64_t t = begin; t < end; ++t, out += head_dim) {
    const T* x = source + t * stride;
    if (!rope) {
      for (int64_t i = 0; i < head_dim; ++i) out[i] = ToFloat(x[i]);
      continue;
    }
    const float *c = cos + (t - begin) * half, *s = sin + (t - begin) * half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = ToFloat(x[i]), b = ToFloat(x[i + half]);
      out[i] = a * c[i] - b * s[i];
      out[i + half] = b * c[i] + a * s[i];
    }
  }
}

// Writes a block back to a row-major matrix, rotated back if `rope` is set.
template <typename T>
void Scatter(const float* block, int64_t begin, int64_t end, int64_t head_dim, const RopeTable* rope, T* target,
             int64_t stride) {
  const int64_t half = head_dim / 2;
  const float* cos = rope ? rope->cos_PH.const_data_ptr<float>() : nullptr;
  const float* sin = rope ? rope->sin_PH.const_data_ptr<float>() : nullptr;
  for (int64_t t = begin; t < end; ++t, block += head_dim) {
    T* y = target + t * stride;
    if (!rope) {
      for (int64_t i = 0; i < head_dim; ++i) Store(block[i], y + i);
      continue;
    }
    const float *c = cos + (t - begin) * half, *s = sin + (t - begin) * half;
    for (int64_t i = 0; i < half; ++i) {
      Store(block[i] * c[i] + block[i + half] * s[i], y + i);
      Store(block[i + half] * c[i] - block[i] * s[i], y + i + half);
    }
  }
}

// One (sequence, key/value head) at a time on each thread.
template <typename Body>
void ForEachGroup(const PackedSequences& sequences, const AttentionShape& shape, const Body& body) {
  const int64_t count = static_cast<int64_t>(sequences.starts.size()) - 1;
  at::parallel_for(0, count * shape.kv_heads, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t i = task / shape.kv_heads;
      body(sequences.starts[i], sequences.starts[i + 1], task % shape.kv_heads);
    }
  });
}

// Of one sequence and key/value head, and the query heads that share it.
template <typename T>
void ForwardGroup(const T* qkv, const AttentionShape& shape, const RopeTable& rope, int64_t begin, int64_t end,
                  int64_t kv_head, T* out, float* lse) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads, length = end - begin;
  const int64_t stride = shape.q_size() + 2 * shape.kv_size(), k_column = shape.q_size() + kv_head * d;
  const float scale = static_cast<float>(shape.score_scale());
  Block q(length * d), k(length * d), v(length * d), y(length * d), s(std::min(kRowBlock, length) * length);
  Gather(qkv + k_column, stride, begin, end, d, &rope, k.data());
  Gather(qkv + k_column + shape.kv_size(), stride, begin, end, d, nullptr, v.data());
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    Gather(qkv + h * d, stride, begin, end, d, &rope, q.data());
    for (int64_t i = 0; i < length; i += kRowBlock) {
      const ScoreBlock block(shape, i, length);
      const int64_t rows = block.rows, keys = block.keys;
      Gemm{rows, keys, d, scale}.NT(q.data() + i * d, d, k.data() + block.first_key * d, d, s.data(), keys);
      CapScores(block, s.data(), nullptr);
      SoftmaxRows(block, s.data(), nullptr, lse + (begin + i) * shape.heads + h, shape.heads);
      Gemm{rows, d, keys}.NN(s.data(), keys, v.data() + block.first_key * d, d, y.data() + i * d, d);
    }
    Scatter(y.data(), begin, end, d, nullptr, out + h * d, shape.q_size());
  }
}

// The gradient of one query head, of which dk and dv take their shares.
struct HeadBlocks {
  Block q, k, v, y, dy, dq, dk, dv, p, dp, slopes;
};
void BackwardHead(const AttentionShape& shape, int64_t length, const float* lse, HeadBlocks* b) {
  const int64_t d = shape.head_dim, lse_stride = shape.heads;
  const float scale = static_cast<float>(shape.score_scale());
  for (int64_t i = 0; i < length; i += kRowBlock) {
    const ScoreBlock block(shape, i, length);
    const int64_t rows = block.rows, keys = block.keys, first = block.first_key * d;
    const float *dy = b->dy.data() + i * d, *y = b->y.data() + i * d;
    Gemm{rows, keys, d, scale}.NT(b->q.data() + i * d, d, b->k.data() + first, d, b->p.data(), keys);
    CapScores(block, b->p.data(), b->slopes.data());
    SoftmaxRows(block, b->p.data(), lse + i * lse_stride, nullptr, lse_stride);
    Gemm{rows, keys, d}.NT(dy, d, b->v.data() + first, d, b->dp.data(), keys);
    Gemm{keys, d, rows, 1, 1}.TN(b->p.data(), keys, dy, d, b->dv.data() + first, d);
    for (int64_t r = 0; r < rows; ++r) {
      float delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int64_t c = 0; c < d; ++c) delta += dy[r * d + c] * y[r * d + c];
      float *pr = b->p.data() + r * keys, *dr = b->dp.data() + r * keys;
      for (int64_t j = 0; j < keys; ++j) dr[j] = pr[j] * (dr[j] - delta) * scale;
    }
    if (shape.softcap > 0) {
      for (int64_t j = 0; j < rows * keys; ++j) b->dp[j] *= b->slopes[j];
    }
    Gemm{rows, d, keys}.NN(b->dp.data(), keys, b->k.data() + first, d, b->dq.data() + i * d, d);
    Gemm{keys, d, rows, 1, 1}.TN(b->dp.data(), keys, b->q.data() + i * d, d, b->dk.data() + first, d);
  }
}

template <typename T>
void BackwardGroup(const T* qkv, const T* out, const float* lse, const T* dout, const AttentionShape& shape,
                   const RopeTable& rope, int64_t begin, int64_t end, int64_t kv_head, T* dqkv) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads, length = end - begin, size = length * d;
  const int64_t stride = shape.q_size() + 2 * shape.kv_size(), scores = std::min(kRowBlock, length) * length;
  const int64_t k_column = shape.q_size() + kv_head * d, v_column = k_column + shape.kv_size();
  HeadBlocks b{Block(size), Block(size), Block(size), Block(size), Block(size),
               Block(size), Block(size), Block(size), Block(scores), Block(scores),
               Block(shape.softcap > 0 ? scores : 0)};
  Gather(qkv + k_column, stride, begin, end, d, &rope, b.k.data());
  Gather(qkv + v_column, stride, begin, end, d, nullptr, b.v.data());
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    Gather(qkv + h * d, stride, begin, end, d, &rope, b.q.data());
    Gather(out + h * d, shape.q_size(), begin, end, d, nullptr, b.y.data());
    Gather(dout + h * d, shape.q_size(), begin, end, d, nullptr, b.dy.data());
    BackwardHead(shape, length, lse + begin * shape.heads + h, &b);
    Scatter(b.dq.data(), begin, end, d, &rope, dqkv + h * d, stride);
  }
  Scatter(b.dk.data(), begin, end, d, &rope, dqkv + k_column, stride);
  Scatter(b.dv.data(), begin, end, d, nullptr, dqkv + v_column, stride);
}

}  // namespace

void AttentionForwardLoops(const at::Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                           const PackedSequences& sequences, const at::Tensor& out_TQ, const at::Tensor& log_sums) {
  WithElementOf(qkv_TE, [&]<typename T>() {
    ForEachGroup(sequences, shape, [&](int64_t begin, int64_t end, int64_t kv_head) {
      ForwardGroup(Elements<T>(qkv_TE), shape, rope, begin, end, kv_head, MutableElements<T>(out_TQ),
                   log_sums.mutable_data_ptr<float>());
    });
  });
}

void AttentionBackwardLoops(const AttentionState& state, const at::Tensor& dout_TQ, const AttentionShape& shape,
                            const RopeTable& rope, const PackedSequences& sequences, const at::Tensor& dqkv_TE) {
  WithElementOf(dqkv_TE, [&]<typename T>() {
    ForEachGroup(sequences, shape, [&](int64_t begin, int64_t end, int64_t kv_head) {
      BackwardGroup(Elements<T>(state.qkv_TE), Elements<T>(state.out_TQ), state.log_sums.const_data_ptr<float>(),
                    Elements<T>(dout_TQ), shape, rope, begin, end, kv_head, MutableElements<T>(dqkv_TE));
    });
  });
}

}  // namespace attune
