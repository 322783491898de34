#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_CODES_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_CODES_CUH_

#include "server/model/kernels/cuda/lora_tile.cuh"

// LoRA of a single row by int8 codes (LoraCodes), up to 16 of them in a load: half the bytes, which is what a batch of many LoRAs waits for.
namespace attune::cuda::lora {

// Four codes as floats. A float's last mantissa byte counts from 2^23 on, which the code, made unsigned, is put into.
__device__ inline void ToFloats(unsigned codes, float* out) {
  codes ^= 0x80808080u;
  constexpr unsigned kTwoTo23 = 0x4B000000u;
  constexpr float kZero = 8388608.0f + 128.0f;
  out[0] = __uint_as_float(__byte_perm(codes, kTwoTo23, 0x7440)) - kZero;
  out[1] = __uint_as_float(__byte_perm(codes, kTwoTo23, 0x7441)) - kZero;
  out[2] = __uint_as_float(__byte_perm(codes, kTwoTo23, 0x7442)) - kZero;
  out[3] = __uint_as_float(__byte_perm(codes, kTwoTo23, 0x7443)) - kZero;
}
// So many codes of one load.
template <int kCodes>
using PackedCodes = Pack<unsigned, kCodes / 4>;
template <int kCodes>
__device__ inline PackedCodes<kCodes> LoadCodes(const int8_t* from) {
  return *reinterpret_cast<const PackedCodes<kCodes>*>(from);
}
template <int kCodes>
__device__ inline void ToFloats(const PackedCodes<kCodes>& codes, float (&out)[kCodes]) {
#pragma unroll
  for (int i = 0; i < kCodes / 4; ++i) ToFloats(codes.v[i], out + 4 * i);
}

// part[r] = A's row of codes r times x over inputs [begin, end), in multiples of 16. A warp has two rows at a time, and loads of two steps on
// their way; then_do: once the first ones are.
template <typename Then>
__device__ inline void ShrinkCodes(const Bf16* x, const int8_t* a, int inputs, int begin, int end, int rank, float* part, Then then_do) {
  constexpr int kDeep = 2, kStep = 32 * kCodesOfLoad;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (begin >= end || warp >= rank) then_do();
#pragma unroll 1
  for (int r = warp; r < rank; r += 2 * kWarps) {
    const bool has_second = r + kWarps < rank;
    const int8_t *first = a + static_cast<int64_t>(r) * inputs, *second = first + (has_second ? kWarps * static_cast<int64_t>(inputs) : 0);
    float sum = 0, other = 0;
#pragma unroll 1
    for (int i = begin + lane * kCodesOfLoad; i - lane * kCodesOfLoad < end; i += kDeep * kStep) {
      PackedCodes<kCodesOfLoad> codes[kDeep][2];
#pragma unroll
      for (int d = 0; d < kDeep; ++d) {
        const bool inside = i + d * kStep < end;
        codes[d][0] = inside ? LoadCodes<kCodesOfLoad>(first + i + d * kStep) : PackedCodes<kCodesOfLoad>{};
        codes[d][1] = inside ? LoadCodes<kCodesOfLoad>(second + i + d * kStep) : PackedCodes<kCodesOfLoad>{};
      }
      if (r == warp && i - lane * kCodesOfLoad == begin) then_do();
#pragma unroll
      for (int d = 0; d < kDeep; ++d) {
        if (i + d * kStep >= end) break;
        float v[8], w[kCodesOfLoad], u[kCodesOfLoad];
        ToFloats<kCodesOfLoad>(codes[d][0], w);
        ToFloats<kCodesOfLoad>(codes[d][1], u);
#pragma unroll
        for (int half = 0; half < kCodesOfLoad; half += 8) {
          Load(x + i + d * kStep + half, v);
#pragma unroll
          for (int j = 0; j < 8; ++j) sum += v[j] * w[half + j], other += v[j] * u[half + j];
        }
      }
    }
    StorePart(sum, other, r, has_second, part);
  }
}

// As ExpandRow, of codes.
template <int kLanes, int kRank>
__device__ inline void ExpandCodes(const int8_t* b, const float* inner, int any_rank, float scale, int begin, int end, Bf16* out) {
  constexpr int kTogether = 4, kRows = kThreads / kLanes, kPack = kRank == kLeastCodes ? kLeastCodes : kCodesOfLoad;
  const int rank = kRank > 0 ? kRank : any_rank, lane = threadIdx.x % kLanes;
  // Rows that are shared are added up by whole warps.
#pragma unroll 1
  for (int o = begin + threadIdx.x / kLanes; o - (kLanes > 1 ? static_cast<int>(threadIdx.x) / kLanes : 0) < end; o += kTogether * kRows) {
    float sum[kTogether] = {};
#pragma unroll 1
    for (int k = lane * kPack; k < rank; k += kLanes * kPack) {
      PackedCodes<kPack> codes[kTogether];
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
        const int row = o + m * kRows < end ? o + m * kRows : min(o, end - 1);  // all loads at once, needed or not
        codes[m] = LoadCodes<kPack>(b + static_cast<int64_t>(row) * rank + k);
      }
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
        float w[kPack];
        ToFloats<kPack>(codes[m], w);
#pragma unroll
        for (int j = 0; j < kPack; ++j) sum[m] += w[j] * inner[k + j];
      }
    }
    StoreRows<kLanes>(sum, scale, o, kRows, end, out);
  }
}

// As RowDelta.
__device__ inline void CodesDelta(const Bf16* x, const LoraEntry& entry, int inputs, Share share, Bf16* out, int room) {
  auto& [part, inner] = SharedRowSums();
  const LoraCodes& codes = entry.codes;
  const int blocks = BlocksOfTile(), step = (inputs / kCodesOfLoad + blocks - 1) / blocks * kCodesOfLoad, begin = BlockOfTile() * step;
  const int8_t* b = codes.b_OR + static_cast<int64_t>(share.first) * codes.rank;
  // Two rows of B are 16 bytes at least.
  const int width = max(share.last - share.first, 0), staged = min(width, room / codes.rank) / 2 * 2;
  float scale = 0;  // of the thread's first rank, which is on its way while A is read
  ShrinkCodes(x, codes.a_RI, inputs, begin, min(begin + step, inputs), entry.rank, part, [&] {
    if (threadIdx.x < entry.rank) scale = codes.scale_R[threadIdx.x];
    BeginCopy(b, staged_bytes, staged * codes.rank);
  });
  SyncTile();
#pragma unroll 1
  for (int r = threadIdx.x; r < codes.rank; r += kThreads) {
    inner[r] = r < entry.rank ? SumOverBlocks(part, r) * (r < kThreads ? scale : codes.scale_R[r]) : 0.0f;
  }
  ArriveAtTile();
  EndCopies();
  __syncthreads();
  ForBoth(reinterpret_cast<const int8_t*>(staged_bytes), b, staged, width, codes.rank == kCodesOfLoad,
          [&]<bool kIsUsual>(const int8_t* rows, int begin, int end) {
            auto expand = [&]<int kLanes, int kRank>() {
              ExpandCodes<kLanes, kRank>(rows, inner, codes.rank, entry.scale, begin, end, out + share.first);
            };
            if constexpr (kIsUsual) {
              expand.template operator()<1, kCodesOfLoad>();
            } else if (codes.rank == kLeastCodes) {
              expand.template operator()<1, kLeastCodes>();
            } else {
              codes.rank < 64 ? expand.template operator()<2, 0>() : expand.template operator()<4, 0>();
            }
          });
  WaitForTile();  // nobody leaves while another reads from it
}

}  // namespace attune::cuda::lora

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_CODES_CUH_
