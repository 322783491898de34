#include <cooperative_groups.h>

#include "server/model/kernels/cuda/common.cuh"

// Low-rank terms of a batch whose rows have adapters of their own (after Chen et al. 2024, Punica).
// Bound by reading the adapters: up to 16 rows of one adapter, which stand side by side, are a tile and
// read it once, for the tensor cores. A tile under a projection is the work of a cluster of blocks,
// which share out the inputs, add up A x between them, and share out the outputs.
namespace attune::cuda {
namespace {

namespace cg = cooperative_groups;

using Bf16 = __nv_bfloat16;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kBlocks = 2;  // of a cluster
constexpr int kMostRanks = 512;
constexpr int kChunk = 32;  // ranks that are added up at a time

// Clusters came with compute capability 9.0; before, a block does all.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline int BlocksOfTile() { return static_cast<int>(cg::this_cluster().num_blocks()); }
__device__ inline int BlockOfTile() { return static_cast<int>(cg::this_cluster().block_rank()); }
__device__ inline void SyncTile() { cg::this_cluster().sync(); }
__device__ inline const float* SharedOf(float* mine, int block) { return cg::this_cluster().map_shared_rank(mine, block); }
#else
__device__ inline int BlocksOfTile() { return 1; }
__device__ inline int BlockOfTile() { return 0; }
__device__ inline void SyncTile() { __syncthreads(); }
__device__ inline const float* SharedOf(float* mine, int) { return mine; }
#endif

// sum (16 x 8, fp32) += a (16 x 16) b (16 x 8), each thread with its part of them.
__device__ inline void Mma(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Neighbouring values, two in each.
template <int kPairs>
struct alignas(4 * kPairs) Pairs {
  unsigned v[kPairs];
};
// Zeros where they are not `inside`.
template <int kPairs>
__device__ inline Pairs<kPairs> LoadPairs(const Bf16* from, bool inside) {
  return inside ? *reinterpret_cast<const Pairs<kPairs>*>(from) : Pairs<kPairs>{};
}
// The same one by one, for rows of any length: `left` of them are inside.
template <int kPairs>
__device__ inline Pairs<kPairs> GatherPairs(const Bf16* from, int left) {
  Pairs<kPairs> out = {};
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
    if (i < left) out.v[i / 2] |= static_cast<unsigned>(__bfloat16_as_ushort(from[i])) << (16 * (i % 2));
  }
  return out;
}

struct Part {
  float v[kWarps][16][kChunk + 1];
};

// Each warp's share of x A^T for ranks [from, from + 8 * kTiles): in steps of 32 inputs, of which a thread
// has eight neighbours of its rows. Which inputs meet in one instruction does not matter.
template <int kTiles, bool kAligned>
__device__ inline void Shrink(const Bf16* x, int64_t x_stride, int rows, const Bf16* a, int inputs, int from, int rank,
                              int warp_of_tile, int warps, Part* part) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  float sum[kTiles][4] = {};
  auto load = [&](const Bf16* row, int k, bool inside) {
    return kAligned ? LoadPairs<4>(row + k, inside && k < inputs) : GatherPairs<4>(row + k, inside ? inputs - k : 0);
  };
#pragma unroll 4
  for (int k = warp_of_tile * 32 + q * 8; k < (inputs + 31) / 32 * 32; k += warps * 32) {
    const Pairs<4> upper = load(x + g * x_stride, k, g < rows), lower = load(x + (g + 8) * x_stride, k, g + 8 < rows);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int r = from + t * 8 + g;
      const Pairs<4> w = load(a + static_cast<int64_t>(r) * inputs, k, r < rank);
      Mma(sum[t], upper.v[0], lower.v[0], upper.v[1], lower.v[1], w.v[0], w.v[1]);
      Mma(sum[t], upper.v[2], lower.v[2], upper.v[3], lower.v[3], w.v[2], w.v[3]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) part->v[warp][g + i / 2 * 8][t * 8 + 2 * q + i % 2] = sum[t][i];
  }
}

// out = scale * inner B^T for outputs [begin, end), a warp eight of them at a time. kSteps: of 16 ranks.
template <int kSteps>
__device__ inline void Expand(const Bf16* b, const Bf16 (*inner)[kMostRanks], int rank, float scale, int begin, int end,
                              int rows, Bf16* out, int64_t stride) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int steps = kSteps > 0 ? kSteps : (rank + 15) / 16;
  const bool aligned = rank % 4 == 0;
  auto inner_at = [&](int row, int step) { return LoadPairs<2>(&inner[row][step * 16 + q * 4], true); };
  Pairs<2> upper[kSteps > 0 ? kSteps : 1], lower[kSteps > 0 ? kSteps : 1];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) upper[s] = inner_at(g, s), lower[s] = inner_at(g + 8, s);
#pragma unroll 4
  for (int o = begin + warp * 8; o < end; o += kWarps * 8) {
    float sum[4] = {};
    const Bf16* row = b + static_cast<int64_t>(o + g) * rank;
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      const int r = s * 16 + q * 4;
      const bool inside = o + g < end && r < rank;
      const Pairs<2> w = aligned ? LoadPairs<2>(row + r, inside) : GatherPairs<2>(row + r, inside ? rank - r : 0);
      const Pairs<2> u = kSteps > 0 ? upper[kSteps > 0 ? s : 0] : inner_at(g, s);
      const Pairs<2> l = kSteps > 0 ? lower[kSteps > 0 ? s : 0] : inner_at(g + 8, s);
      Mma(sum, u.v[0], l.v[0], u.v[1], l.v[1], w.v[0], w.v[1]);
    }
    const int column = o + 2 * q;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = g + i / 2 * 8;
      if (at < rows && column + i % 2 < end) out[at * stride + column + i % 2] = FromFloat<Bf16>(scale * sum[i]);
    }
  }
}

// inner (16 x kMostRanks) = x A^T of the tile's rows, on every block of the cluster.
template <bool kAligned>
__device__ inline void ShrinkAll(const Bf16* x, int64_t x_stride, int rows, const Bf16* a, int inputs, int rank,
                                 Part* part, float* sums, Bf16 (*inner)[kMostRanks]) {
  const int block = BlockOfTile(), blocks = BlocksOfTile(), warps = blocks * kWarps;
  const int warp_of_tile = block * kWarps + threadIdx.x / 32;
  for (int from = 0; from < rank; from += kChunk) {
    const int here = min(rank - from, kChunk);
    if (here <= 8) {
      Shrink<1, kAligned>(x, x_stride, rows, a, inputs, from, rank, warp_of_tile, warps, part);
    } else if (here <= 16) {
      Shrink<2, kAligned>(x, x_stride, rows, a, inputs, from, rank, warp_of_tile, warps, part);
    } else {
      Shrink<4, kAligned>(x, x_stride, rows, a, inputs, from, rank, warp_of_tile, warps, part);
    }
    __syncthreads();
    const int width = (here + 7) / 8 * 8;
    for (int i = threadIdx.x; i < 16 * width; i += kThreads) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += part->v[w][i / width][i % width];
      sums[i] = sum;
    }
    SyncTile();
    for (int i = threadIdx.x; i < 16 * width; i += kThreads) {
      float sum = 0;
      for (int k = 0; k < blocks; ++k) sum += SharedOf(sums, k)[i];
      inner[i / width][from + i % width] = FromFloat<Bf16>(sum);
    }
    SyncTile();  // and nobody leaves, or adds up the next ones, while another reads from it
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    Delta(const Bf16* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot, const LoraTile* tiles,
          LoraTarget target, Bf16* delta, int64_t delta_stride, int inputs) {
  __shared__ Part part;
  __shared__ float sums[16 * kChunk];
  __shared__ alignas(16) Bf16 inner[16][kMostRanks];
  const LoraTile tile = tiles[blockIdx.x / BlocksOfTile()];
  if (tile.rows == 0) return;  // for all blocks of the cluster alike, here and below
  const int p = blockIdx.y, columns = target.columns[p];
  const int width = (columns + 8 * BlocksOfTile() - 1) / (8 * BlocksOfTile()) * 8, first = BlockOfTile() * width;
  const int last = min(first + width, columns);
  Bf16* out = delta + tile.first_row * delta_stride + target.first_column[p];
  LoraEntry entry{nullptr, nullptr, 0, 0};
  if (tile.slot >= 0) entry = entries[tile.slot * entries_per_slot + target.entry[p]];
  if (entry.rank == 0) {
    for (int row = 0; row < tile.rows; ++row) {
      for (int o = first + threadIdx.x; o < last; o += kThreads) out[row * delta_stride + o] = FromFloat<Bf16>(0);
    }
    return;
  }
  const Bf16 *a = static_cast<const Bf16*>(entry.a_RI), *b = static_cast<const Bf16*>(entry.b_OR);
  // What lies beyond the rank is multiplied, too.
  const int padded = (entry.rank + 15) / 16 * 16;
  for (int i = threadIdx.x; i < 16 * (padded - entry.rank); i += kThreads) {
    inner[i % 16][entry.rank + i / 16] = FromFloat<Bf16>(0);
  }
  ShrinkAll<kAligned>(x + tile.first_row * x_stride, x_stride, tile.rows, a, inputs, entry.rank, &part, sums, inner);
  auto expand = [&]<int kSteps>() {
    Expand<kSteps>(b, inner, entry.rank, entry.scale, first, last, tile.rows, out, delta_stride);
  };
  switch (padded) {
    case 16: return expand.template operator()<1>();
    case 32: return expand.template operator()<2>();
    case 64: return expand.template operator()<4>();
    default: return expand.template operator()<0>();
  }
}

bool HasClusters() {
  static const bool has = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return has;
}

}  // namespace

int MostGroupedRanks() { return kMostRanks; }

void GroupedLora(const void* x_TI, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot,
                 const LoraTile* tiles, int64_t tile_count, LoraTarget target, void* delta_TO, int64_t delta_stride,
                 int64_t inputs, Stream stream) {
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config = {};
  const unsigned blocks = HasClusters() ? kBlocks : 1;
  config.gridDim = dim3(static_cast<unsigned>(tile_count) * blocks, target.count);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = HasClusters() ? 1 : 0;
  const bool aligned = inputs % 8 == 0 && x_stride % 8 == 0;
  cudaLaunchKernelEx(&config, aligned ? Delta<true> : Delta<false>, static_cast<const Bf16*>(x_TI), x_stride, entries,
                     entries_per_slot, tiles, target, static_cast<Bf16*>(delta_TO), delta_stride, static_cast<int>(inputs));
  CheckLaunch();
}

}  // namespace attune::cuda
