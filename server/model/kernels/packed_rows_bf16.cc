#include "server/model/kernels/packed_rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512BF16__)
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

// Lane i holds a[i] and b[i], rounded.
inline __m512i Interleave(__m512 a, __m512 b) {
  const __m512i low = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
  const __m512i high = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(b)));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// 16 bytes of nibble pairs: weights 0..15 are the low halves, 16..31 the high. Each nibble of a
// lane picks its value, rounded, out of the sixteen that there are (here twice: five bits pick).
inline __m512i PickNibbles(const uint8_t* q, __m512 values) {
  const __m256i sixteen = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
  const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(sixteen), sixteen, 1);
  const __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
  return _mm512_permutexvar_epi16(_mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 12)), table);
}

inline __m512 Sixteen() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

struct Q4_0 {
  static constexpr int64_t kBytes = 18;
  static __m512i Expand(const uint8_t* b) {
    return PickNibbles(b + 2, _mm512_mul_ps(_mm512_sub_ps(Sixteen(), _mm512_set1_ps(8)), Half(b)));
  }
};

struct Q4_1 {
  static constexpr int64_t kBytes = 20;
  static __m512i Expand(const uint8_t* b) {
    return PickNibbles(b + 4, _mm512_fmadd_ps(Sixteen(), Half(b), Half(b + 2)));
  }
};

struct Q8_0 {
  static constexpr int64_t kBytes = 34;
  static __m512 Floats(const uint8_t* q, __m512 d) {
    return _mm512_mul_ps(
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)))), d);
  }
  static __m512i Expand(const uint8_t* b) {
    const __m512 d = Half(b);
    return Interleave(Floats(b + 2, d), Floats(b + 18, d));
  }
};

// One weight row against kTokens rows of x.
template <typename Format, int kTokens>
void RowTimesTokens(const uint8_t* row, const uint16_t* x, int64_t columns, float* y, int64_t y_stride) {
  __m512 sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = _mm512_setzero_ps();
  for (int64_t c = 0; c < columns; c += kBlock, row += Format::kBytes) {
    // The hardware's prefetcher stops at each page's end.
    _mm_prefetch(reinterpret_cast<const char*>(row + 1024), _MM_HINT_T0);
    const __m512bh w = reinterpret_cast<__m512bh>(Format::Expand(row));
    for (int t = 0; t < kTokens; ++t) {
      const __m512i xt = _mm512_loadu_si512(x + t * columns + c);
      sums[t] = _mm512_dpbf16_ps(sums[t], w, reinterpret_cast<__m512bh>(xt));
    }
  }
  for (int t = 0; t < kTokens; ++t) y[t * y_stride] = _mm512_reduce_add_ps(sums[t]);
}

template <typename Format>
void MultiplyRows(const PackedProduct& p, const uint16_t* x, int64_t first, int64_t last) {
  const int64_t columns = p.columns, rows = p.rows;
  for (int64_t o = first; o < last; ++o) {
    const uint8_t* row = p.weight + o * p.row_bytes;
    float* y = p.y + o;
    int64_t t = 0;
    for (; t + 16 <= p.tokens; t += 16) RowTimesTokens<Format, 16>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t + 8 <= p.tokens; t += 8) RowTimesTokens<Format, 8>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t + 4 <= p.tokens; t += 4) RowTimesTokens<Format, 4>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t + 2 <= p.tokens; t += 2) RowTimesTokens<Format, 2>(row, x + t * columns, columns, y + t * rows, rows);
    for (; t < p.tokens; ++t) RowTimesTokens<Format, 1>(row, x + t * columns, columns, y + t * rows, rows);
  }
}

}  // namespace

bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16"); }

void PackBf16Tokens(const float* x, int64_t count, uint16_t* out) {
  for (int64_t c = 0; c < count; c += kBlock) {
    _mm512_storeu_si512(out + c, Interleave(_mm512_loadu_ps(x + c), _mm512_loadu_ps(x + c + 16)));
  }
}

void MultiplyPackedRowsBf16(const PackedProduct& product, const uint16_t* x, int64_t first, int64_t last) {
  switch (product.type) {
    case GgmlType::kQ4_0: return MultiplyRows<Q4_0>(product, x, first, last);
    case GgmlType::kQ4_1: return MultiplyRows<Q4_1>(product, x, first, last);
    default: return MultiplyRows<Q8_0>(product, x, first, last);
  }
}

}  // namespace attune

#else

namespace attune {

bool HasAvx512Bf16() { return false; }
void PackBf16Tokens(const float*, int64_t, uint16_t*) {}
void MultiplyPackedRowsBf16(const PackedProduct&, const uint16_t*, int64_t, int64_t) {}

}  // namespace attune

#endif
