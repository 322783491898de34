#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_TILE_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_TILE_CUH_

#include <cooperative_groups.h>

#include "server/model/kernels/cuda/common.cuh"

// What the parts of the grouped kernel for LoRAs share: a tile, up to 16 rows of one adapter, under one projection is the work of
// a cluster of blocks, which share out the inputs, add up A x between them, and share out the outputs.
namespace attune::cuda::lora {

using Bf16 = __nv_bfloat16;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostRanks = kMostLoraRanks;

// Clusters came with compute capability 9.0; before, a block does all.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline int BlocksOfTile() { return static_cast<int>(cooperative_groups::this_cluster().num_blocks()); }
__device__ inline int BlockOfTile() { return static_cast<int>(cooperative_groups::this_cluster().block_rank()); }
__device__ inline void SyncTile() { cooperative_groups::this_cluster().sync(); }
// Between blocks alone, in two halves; the threads of a block may still be apart.
__device__ inline void ArriveAtTile() { cooperative_groups::this_cluster().barrier_arrive(); }
__device__ inline void WaitForTile() { cooperative_groups::this_cluster().barrier_wait(); }
__device__ inline const float* SharedOf(float* mine, int block) { return cooperative_groups::this_cluster().map_shared_rank(mine, block); }
#else
__device__ inline int BlocksOfTile() { return 1; }
__device__ inline int BlockOfTile() { return 0; }
__device__ inline void SyncTile() { __syncthreads(); }
__device__ inline void ArriveAtTile() {}
__device__ inline void WaitForTile() {}
__device__ inline const float* SharedOf(float* mine, int) { return mine; }
#endif

// Of all blocks' values at one place; their loads are on their way together.
__device__ inline float SumOverBlocks(float* mine, int at) {
  constexpr int kMostBlocks = 8;
  const int blocks = BlocksOfTile();
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kMostBlocks; ++k) sum += k < blocks ? SharedOf(mine, k)[at] : 0.0f;
  return sum;
}

// The tile's part of the output that this block makes.
struct Share {
  int first, last;
};
__device__ inline Share ShareOf(int columns) {
  const int blocks = BlocksOfTile(), width = (columns + 8 * blocks - 1) / (8 * blocks) * 8,
            first = BlockOfTile() * width;
  return {first, min(first + width, columns)};
}

// Of a single row, by rank: a block's part of A x, and all blocks' sum.
struct RowSums {
  float part[kMostRanks], inner[kMostRanks];
};
// One, whichever way a kernel takes.
__device__ inline RowSums& SharedRowSums() {
  __shared__ RowSums sums;
  return sums;
}

// part[r] = the warp's sum of `sum`, and, if has_second, part[r + kWarps] that of `other`.
__device__ inline void StorePart(float sum, float other, int r, bool has_second, float* part) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(~0u, sum, offset);
    other += __shfl_xor_sync(~0u, other, offset);
  }
  if (lane == 0) part[r] = sum;
  if (lane == 0 && has_second) part[r + kWarps] = other;
}

// out[o + m * step] = scale * the sum over kLanes neighbours of sum[m], where that is before `end`. For whole warps.
template <int kLanes, int kCount>
__device__ inline void StoreRows(float (&sum)[kCount], float scale, int o, int step, int end, Bf16* out) {
#pragma unroll
  for (int m = 0; m < kCount; ++m) {
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum[m] += __shfl_xor_sync(~0u, sum[m], offset);
    if (threadIdx.x % kLanes == 0 && o + m * step < end) out[o + m * step] = FromFloat<Bf16>(scale * sum[m]);
  }
}

// Copies that are under way while the threads go on; on 16 bytes.
__device__ inline void BeginCopy(const void* from, void* to, int bytes) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
#pragma unroll 1
  for (int at = threadIdx.x * 16; at < bytes; at += kThreads * 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address + at), "l"(static_cast<const char*>(from) + at) : "memory");
  }
}
__device__ inline void EndCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Where the first rows of B lie.
extern __shared__ __align__(16) char staged_bytes[];

// Does body<is_usual>(from, begin, end) with B's rows [0, width), the first of which are staged: with those that are not, and then with those. Unless
// it is the usual rank, by one code for both: a kernel that is over in microseconds waits for its instructions, too.
template <typename T, typename Body>
__device__ inline void ForBoth(const T* staged_rows, const T* rows, int staged, int width, bool is_usual, Body body) {
  if (is_usual) {
    body.template operator()<true>(rows, staged, width);
    body.template operator()<true>(staged_rows, 0, staged);
    return;
  }
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {
    body.template operator()<false>(part == 0 ? rows : staged_rows, part == 0 ? staged : 0, part == 0 ? width : staged);
  }
}

}  // namespace attune::cuda::lora

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_TILE_CUH_
