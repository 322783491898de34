#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_ROW_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_ROW_CUH_

#include "server/model/kernels/cuda/lora_tile.cuh"

// LoRA of a single row, which is not worth the tensor cores. While A is read, the first rows of B are fetched to shared memory.
namespace attune::cuda::lora {

// part[r] = A's row r times x over inputs [begin, end). A warp has two rows at a time, and
// loads of four steps on their way.
template <typename T, int N>
__device__ inline void ShrinkRow(const T* x, const T* a, int inputs, int begin, int end, int rank, float* part) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int r = warp; r < rank; r += 2 * kWarps) {
    const bool has_second = r + kWarps < rank;
    const T *first = a + static_cast<int64_t>(r) * inputs, *second = first + (has_second ? kWarps * static_cast<int64_t>(inputs) : 0);
    float sum = 0, other = 0;
#pragma unroll 4
    for (int i = begin + lane * N; i < end; i += 32 * N) {
      float v[N], w[N], u[N];
      Load(x + i, v);
      Load(first + i, w);
      Load(second + i, u);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += v[j] * w[j], other += v[j] * u[j];
    }
    StorePart(sum, other, r, has_second, part);
  }
}

// out[o] = scale * B's row o times inner, for o in [begin, end). kLanes neighbours share a row, whose packs they take in turn, so that they read what
// lies side by side. kRank is the rank, or 0 for any. B on 16 bytes, its rows whole packs.
template <typename T, int kLanes, int kRank>
__device__ inline void ExpandRow(const T* b, const float* inner, int any_rank, float scale, int begin, int end, T* out) {
  constexpr int kTogether = 4, kRows = kThreads / kLanes;
  const int rank = kRank > 0 ? kRank : any_rank, lane = threadIdx.x % kLanes;
  // Rows that are shared are added up by whole warps.
#pragma unroll 1
  for (int o = begin + threadIdx.x / kLanes; o - (kLanes > 1 ? static_cast<int>(threadIdx.x) / kLanes : 0) < end; o += kTogether * kRows) {
    float sum[kTogether] = {};
#pragma unroll 1
    for (int k = lane * kWide<T>; k < rank; k += kLanes * kWide<T>) {
      float w[kTogether][kWide<T>];
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
        const int row = o + m * kRows < end ? o + m * kRows : min(o, end - 1);  // all loads at once, needed or not
        Load(b + static_cast<int64_t>(row) * rank + k, w[m]);
      }
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
#pragma unroll
        for (int j = 0; j < kWide<T>; ++j) sum[m] += w[m][j] * inner[k + j];
      }
    }
    StoreRows<kLanes>(sum, scale, o, kRows, end, out);
  }
}

// The same for any B.
template <typename T>
__device__ inline void ExpandAnyRow(const T* b, const float* inner, int rank, float scale, int begin, int end, T* out) {
#pragma unroll 1
  for (int o = begin + threadIdx.x; o < end; o += kThreads) {
    float sum = 0;
    for (int r = 0; r < rank; ++r) sum += ToFloat(b[static_cast<int64_t>(o) * rank + r]) * inner[r];
    out[o] = FromFloat<T>(scale * sum);
  }
}

// `room`: bytes of B that may lie in shared memory; they are fetched while A is read.
template <bool kAligned>
__device__ inline void RowDelta(const Bf16* x, const LoraEntry& entry, int inputs, Share share, Bf16* out, int room) {
  auto& [part, inner] = SharedRowSums();
  constexpr int N = kAligned ? kWide<Bf16> : 1;
  const Bf16 *a = static_cast<const Bf16*>(entry.a_RI), *b = static_cast<const Bf16*>(entry.b_OR);
  const int blocks = BlocksOfTile(), step = (inputs / N + blocks - 1) / blocks * N, begin = BlockOfTile() * step;
  const int width = max(share.last - share.first, 0), row_bytes = entry.rank * static_cast<int>(sizeof(Bf16));
  const bool on_16_bytes = reinterpret_cast<uintptr_t>(b) % 16 == 0;  // and so is every eighth row
  const int staged = on_16_bytes ? min(width, room / row_bytes) / 8 * 8 : 0;
  BeginCopy(b + static_cast<int64_t>(share.first) * entry.rank, staged_bytes, staged * row_bytes);
  ShrinkRow<Bf16, N>(x, a, inputs, begin, min(begin + step, inputs), entry.rank, part);
  SyncTile();
#pragma unroll 1
  for (int r = threadIdx.x; r < entry.rank; r += kThreads) {
    inner[r] = SumOverBlocks(part, r);
  }
  ArriveAtTile();
  EndCopies();
  __syncthreads();
  ForBoth(
      reinterpret_cast<const Bf16*>(staged_bytes), b + static_cast<int64_t>(share.first) * entry.rank, staged, width,
      entry.rank == 16 && on_16_bytes,
      [&]<bool kIsUsual>(const Bf16* rows, int begin, int end) {
        auto expand = [&]<int kLanes, int kRank>() {
          ExpandRow<Bf16, kLanes, kRank>(rows, inner, entry.rank, entry.scale, begin, end, out + share.first);
        };
        if constexpr (kIsUsual) {
          expand.template operator()<1, 16>();
        } else if (!on_16_bytes || row_bytes % 16 != 0) {
          ExpandAnyRow(rows, inner, entry.rank, entry.scale, begin, end, out + share.first);
        } else if (entry.rank == 8) {
          expand.template operator()<1, 8>();
        } else {
          entry.rank <= 32 ? expand.template operator()<4, 0>() : expand.template operator()<8, 0>();
        }
      });
  WaitForTile();  // nobody leaves while another reads from it
}

}  // namespace attune::cuda::lora

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_ROW_CUH_
