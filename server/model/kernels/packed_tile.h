#ifndef ATTUNE_SERVER_MODEL_KERNELS_PACKED_TILE_H_
#define ATTUNE_SERVER_MODEL_KERNELS_PACKED_TILE_H_

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "server/model/kernels/packed_rows.h"

// What the AVX-512 loops over packed weights share: tiles of tokens times weight rows with up to sixteen
// sums, so that these are added up together. For files that are compiled for AVX-512 alone; all of it
// is in an unnamed namespace, so that no other file can end up with this code.
namespace attune {
namespace {

constexpr int64_t kBlock = 32;  // weights in a block of every supported format

// A block's scale, in half precision, in all lanes.
inline __m512 Half(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return _mm512_set1_ps(_cvtsh_ss(h));
}

// The values of a nibble.
inline __m512 Sixteen() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

// Lane i: the sum of v[i]'s lanes.
inline __m512 SumSixteen(const __m512 v[16]) {
  __m512 pairs[8], quads[4];
  for (int i = 0; i < 8; ++i) {
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const auto halve = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return halve(halve(quads[0], quads[1]), halve(quads[2], quads[3]));
}

// Computes columns first .. last - 1 of y for all tokens. `Kernel` says how a block is met:
//   Kernel::X          element of x
//   Kernel::kBytes     of a block of 32 weights
//   Kernel::Block      a block in registers, made by Kernel::Expand(bytes)
//   Kernel::Add(sum, block, x)  sum + block * x, lane by lane
template <typename Kernel>
class PackedTiles {
 public:
  using X = typename Kernel::X;
  PackedTiles(const PackedProduct& product, const X* x) : p_(product), x_(x) {}

  void Run(int64_t first, int64_t last) const {
    int64_t t = 0;
    for (; t + 8 <= p_.tokens; t += 8) Rows<8>(t, first, last);
    for (; t + 4 <= p_.tokens; t += 4) Rows<4>(t, first, last);
    for (; t + 2 <= p_.tokens; t += 2) Rows<2>(t, first, last);
    for (; t < p_.tokens; ++t) Rows<1>(t, first, last);
  }

 private:
  template <int kTokens>
  void Rows(int64_t token, int64_t first, int64_t last) const {
    constexpr int kRows = std::min(4, 16 / kTokens);
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) Tile<kTokens, kRows>(token, row);
    for (; row < last; ++row) Tile<kTokens, 1>(token, row);
  }

  template <int kTokens, int kRows>
  void Tile(int64_t token, int64_t first_row) const {
    __m512 sums[16];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    const uint8_t* weight = p_.weight + first_row * p_.row_bytes;
    const X* x = x_ + token * p_.columns;
    for (int64_t c = 0; c < p_.columns; c += kBlock, weight += Kernel::kBytes, x += kBlock) {
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* bytes = weight + r * p_.row_bytes;
        // The hardware's prefetcher stops at each page's end.
        _mm_prefetch(reinterpret_cast<const char*>(bytes + 2048), _MM_HINT_T0);
        const typename Kernel::Block block = Kernel::Expand(bytes);
        for (int t = 0; t < kTokens; ++t) {
          sums[t * kRows + r] = Kernel::Add(sums[t * kRows + r], block, x + t * p_.columns);
        }
      }
    }
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, SumSixteen(sums));
    for (int t = 0; t < kTokens; ++t) {
      float* y = p_.y + (token + t) * p_.rows + first_row;
      for (int r = 0; r < kRows; ++r) y[r] = lanes[t * kRows + r];
    }
  }

  const PackedProduct p_;
  const X* const x_;
};

}  // namespace
}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_PACKED_TILE_H_
