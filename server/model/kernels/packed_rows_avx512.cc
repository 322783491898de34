#include "server/model/kernels/packed_rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "server/model/kernels/packed_tile.h"

namespace attune {
namespace {

// 16 bytes of nibble pairs: weights 0..15 are the low halves, 16..31 the high. A nibble picks its
// value out of the sixteen that there are; what is above it in its lane is ignored.
inline void PickNibbles(const uint8_t* q, __m512 values, __m512 w[2]) {
  const __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
  w[0] = _mm512_permutexvar_ps(pairs, values);
  w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), values);
}

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

template <typename Format>
struct Fp32Kernel {
  using X = float;
  static constexpr int64_t kBytes = Format::kBytes;
  struct Block {
    __m512 w[2];
  };
  static Block Expand(const uint8_t* bytes) {
    Block block;
    Format::Expand(bytes, block.w);
    return block;
  }
  static __m512 Add(__m512 sum, const Block& block, const float* x) {
    sum = _mm512_fmadd_ps(block.w[0], _mm512_loadu_ps(x), sum);
    return _mm512_fmadd_ps(block.w[1], _mm512_loadu_ps(x + 16), sum);
  }
};

template <typename Format>
void MultiplyRows(const PackedProduct& product, int64_t first, int64_t last) {
  PackedTiles<Fp32Kernel<Format>>(product, product.x).Run(first, last);
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
