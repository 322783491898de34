#include "server/model/kernels/packed_rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>

#include <cstring>

namespace attune {
namespace {

constexpr int64_t kBlock = 32;  // weights in a block of every supported format

inline __m512 Half(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return _mm512_set1_ps(_cvtsh_ss(h));
}

// 16 bytes of nibble pairs: weights 0..15 are the low halves, 16..31 the high. A nibble picks its
// value out of the sixteen that there are; what is above it in its lane is ignored.
inline void PickNibbles(const uint8_t* q, __m512 values, __m512 w[2]) {
  const __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
  w[0] = _mm512_permutexvar_ps(pairs, values);
  w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), values);
}

inline __m512 Sixteen() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

struct Q4_0 {
  static constexpr int64_t kBytes = 18;
  static void Expand(const uint8_t* b, __m512 w[2]) {
    const __m512 d = Half(b);
    PickNibbles(b + 2, _mm512_mul_ps(_mm512_sub_ps(Sixteen(), _mm512_set1_ps(8)), d), w);
  }
};

struct Q4_1 {
  static constexpr int64_t kBytes = 20;
  static void Expand(const uint8_t* b, __m512 w[2]) {
    PickNibbles(b + 4, _mm512_fmadd_ps(Sixteen(), Half(b), Half(b + 2)), w);
  }
};

struct Q8_0 {
  static constexpr int64_t kBytes = 34;
  static void Expand(const uint8_t* b, __m512 w[2]) {
    const __m512 d = Half(b);
    for (int i = 0; i < 2; ++i) {
      const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + 2 + 16 * i));
      w[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), d);
    }
  }
};

// One weight row against kTokens rows of x.
template <typename Format, int kTokens>
void RowTimesTokens(const uint8_t* row, const float* x, int64_t columns, float* y, int64_t y_stride) {
  __m512 sums[kTokens][2];
  for (int t = 0; t < kTokens; ++t) sums[t][0] = sums[t][1] = _mm512_setzero_ps();
  for (int64_t c = 0; c < columns; c += kBlock, row += Format::kBytes) {
    // The hardware's prefetcher stops at each page's end.
    _mm_prefetch(reinterpret_cast<const char*>(row + 1024), _MM_HINT_T0);
    __m512 w[2];
    Format::Expand(row, w);
    for (int t = 0; t < kTokens; ++t) {
      const float* xt = x + t * columns + c;
      sums[t][0] = _mm512_fmadd_ps(w[0], _mm512_loadu_ps(xt), sums[t][0]);
      sums[t][1] = _mm512_fmadd_ps(w[1], _mm512_loadu_ps(xt + 16), sums[t][1]);
    }
  }
  for (int t = 0; t < kTokens; ++t) y[t * y_stride] = _mm512_reduce_add_ps(_mm512_add_ps(sums[t][0], sums[t][1]));
}

template <typename Format>
void MultiplyRows(const PackedProduct& p, int64_t first, int64_t last) {
  const float* x = p.x;
  const int64_t columns = p.columns, rows = p.rows;
  for (int64_t o = first; o < last; ++o) {
    const uint8_t* row = p.weight + o * p.row_bytes;
    float* y = p.y + o;
    int64_t t = 0;
    for (; t + 8 <= p.tokens; t += 8) RowTimesTokens<Format, 8>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t + 4 <= p.tokens; t += 4) RowTimesTokens<Format, 4>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t + 2 <= p.tokens; t += 2) RowTimesTokens<Format, 2>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t < p.tokens; ++t) RowTimesTokens<Format, 1>(row, x + t * columns, columns, y + t * rows, rows);
  }
}

}  // namespace

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

void MultiplyPackedRowsAvx512(const PackedProduct& product, int64_t first, int64_t last) {
  switch (product.type) {
    case GgmlType::kQ4_0: return MultiplyRows<Q4_0>(product, first, last);
    case GgmlType::kQ4_1: return MultiplyRows<Q4_1>(product, first, last);
    default: return MultiplyRows<Q8_0>(product, first, last);
  }
}

}  // namespace attune

#else

namespace attune {

bool HasAvx512() { return false; }
void MultiplyPackedRowsAvx512(const PackedProduct&, int64_t, int64_t) {}

}  // namespace attune

#endif
