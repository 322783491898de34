#include "server/model/kernels/packed_rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512BF16__)
#include "server/model/kernels/packed_tile.h"

namespace attune {
namespace {

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

template <typename Format>
struct Bf16Kernel {
  using X = uint16_t;
  static constexpr int64_t kBytes = Format::kBytes;
  using Block = __m512i;
  static Block Expand(const uint8_t* bytes) { return Format::Expand(bytes); }
  static __m512 Add(__m512 sum, const Block& block, const uint16_t* x) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(block), reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)));
  }
};

template <typename Format>
void MultiplyRows(const PackedProduct& product, const uint16_t* x, int64_t first, int64_t last) {
  PackedTiles<Bf16Kernel<Format>>(product, x).Run(first, last);
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
