#include "server/model/kernels/packed_rows.h"

#include <cstring>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

namespace attune {
namespace {


constexpr int64_t kBlock = 32;  // weights in a block of every supported format

inline float HalfToFloat(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return _cvtsh_ss(h);
}

inline __m256 BytesToFloats(__m128i eight_unsigned) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight_unsigned)); }

// Expands 16 bytes of nibble pairs: weights 0..15 are the low halves, 16..31 the high.
inline void ExpandNibbles(const uint8_t* q, __m256 scale, __m256 offset, __m256 w[4]) {
  const __m128i mask = _mm_set1_epi8(0x0F);
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
  const __m128i low = _mm_and_si128(raw, mask), high = _mm_and_si128(_mm_srli_epi16(raw, 4), mask);
  w[0] = _mm256_fmadd_ps(BytesToFloats(low), scale, offset);
  w[1] = _mm256_fmadd_ps(BytesToFloats(_mm_srli_si128(low, 8)), scale, offset);
  w[2] = _mm256_fmadd_ps(BytesToFloats(high), scale, offset);
  w[3] = _mm256_fmadd_ps(BytesToFloats(_mm_srli_si128(high, 8)), scale, offset);
}

struct Q4_0 {
  static constexpr int64_t kBytes = 18;
  static void Expand(const uint8_t* b, __m256 w[4]) {
    const float d = HalfToFloat(b);
    ExpandNibbles(b + 2, _mm256_set1_ps(d), _mm256_set1_ps(-8 * d), w);
  }
};

struct Q4_1 {
  static constexpr int64_t kBytes = 20;
  static void Expand(const uint8_t* b, __m256 w[4]) {
    ExpandNibbles(b + 4, _mm256_set1_ps(HalfToFloat(b)), _mm256_set1_ps(HalfToFloat(b + 2)), w);
  }
};

struct Q8_0 {
  static constexpr int64_t kBytes = 34;
  static void Expand(const uint8_t* b, __m256 w[4]) {
    const __m256 d = _mm256_set1_ps(HalfToFloat(b));
    for (int i = 0; i < 4; ++i) {
      const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b + 2 + 8 * i));
      w[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d);
    }
  }
};

inline float Sum(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// One weight row against kTokens rows of x: each block is expanded once.
template <typename Format, int kTokens>
void RowTimesTokens(const uint8_t* row, const float* x, int64_t columns, float* y, int64_t y_stride) {
  __m256 sums[kTokens][2];
  for (int t = 0; t < kTokens; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_ps();
  for (int64_t c = 0; c < columns; c += kBlock, row += Format::kBytes) {
    __m256 w[4];
    Format::Expand(row, w);
    for (int t = 0; t < kTokens; ++t) {
      const float* xt = x + t * columns + c;
      sums[t][0] = _mm256_fmadd_ps(w[0], _mm256_loadu_ps(xt), sums[t][0]);
      sums[t][1] = _mm256_fmadd_ps(w[1], _mm256_loadu_ps(xt + 8), sums[t][1]);
      sums[t][0] = _mm256_fmadd_ps(w[2], _mm256_loadu_ps(xt + 16), sums[t][0]);
      sums[t][1] = _mm256_fmadd_ps(w[3], _mm256_loadu_ps(xt + 24), sums[t][1]);
    }
  }
  for (int t = 0; t < kTokens; ++t) y[t * y_stride] = Sum(_mm256_add_ps(sums[t][0], sums[t][1]));
}

template <typename Format>
void MultiplyRows(const PackedProduct& p, int64_t first, int64_t last) {
  const float* x = p.x;
  const int64_t columns = p.columns, rows = p.rows;
  for (int64_t o = first; o < last; ++o) {
    const uint8_t* row = p.weight + o * p.row_bytes;
    float* y = p.y + o;
    int64_t t = 0;
    for (; t + 4 <= p.tokens; t += 4) RowTimesTokens<Format, 4>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t + 2 <= p.tokens; t += 2) RowTimesTokens<Format, 2>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t < p.tokens; ++t) RowTimesTokens<Format, 1>(row, x + t * columns, columns, y + t * rows, rows);
  }
}

}  // namespace

void MultiplyPackedRowsAvx2(const PackedProduct& product, int64_t first, int64_t last) {
  switch (product.type) {
    case GgmlType::kQ4_0: return MultiplyRows<Q4_0>(product, first, last);
    case GgmlType::kQ4_1: return MultiplyRows<Q4_1>(product, first, last);
    default: return MultiplyRows<Q8_0>(product, first, last);
  }
}

}  // namespace attune

#endif
