#include <cooperative_groups.h>

#include <mutex>

#include "server/model/kernels/cuda/common.cuh"

// Low-rank terms of a batch whose rows have adapters of their own (after Chen et al. 2024, Punica).
// Bound by reading the adapters: up to 16 rows of one adapter, which stand side by side, are a tile and
// read it once, for the tensor cores; a single row is not worth those. A tile under a projection is the
// work of a cluster of blocks, which share out the inputs, add up A x between them, and share out the
// outputs.
namespace attune::cuda {
namespace {

namespace cg = cooperative_groups;

using Bf16 = __nv_bfloat16;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostRanks = 512;
constexpr int kChunk = 32;  // ranks that are added up at a time
static_assert(16 * kChunk <= kMostRanks);

// Clusters came with compute capability 9.0; before, a block does all.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline int BlocksOfTile() { return static_cast<int>(cg::this_cluster().num_blocks()); }
__device__ inline int BlockOfTile() { return static_cast<int>(cg::this_cluster().block_rank()); }
__device__ inline void SyncTile() { cg::this_cluster().sync(); }
// The same in two halves.
__device__ inline void ArriveAtTile() { cg::this_cluster().barrier_arrive(); }
__device__ inline void WaitForTile() { cg::this_cluster().barrier_wait(); }
__device__ inline const float* SharedOf(float* mine, int block) { return cg::this_cluster().map_shared_rank(mine, block); }
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

// sum (16 x 8, fp32) += a (16 x 16) b (16 x 8), each thread with its part of them.
__device__ inline void Mma(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                           unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
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

// ---- A single row ----

// part[r] = A's row r times x over inputs [begin, end). A warp has two rows at a time, and
// loads of four steps on their way.
template <typename T, int N>
__device__ inline void ShrinkRow(const T* x, const T* a, int inputs, int begin, int end, int rank, float* part) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
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
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(~0u, sum, offset);
      other += __shfl_xor_sync(~0u, other, offset);
    }
    if (lane == 0) part[r] = sum;
    if (lane == 0 && has_second) part[r + kWarps] = other;
  }
}

// out[o] = scale * B's row o times inner, for o in [begin, end); kRank is the rank, or 0 for any.
template <typename T, int kRank>
__device__ inline void ExpandRow(const T* b, const float* inner, int any_rank, float scale, int begin, int end,
                                 T* out) {
  constexpr int kTogether = 4, kPacks = kRank / kWide<T>;
  if constexpr (kRank == 0) {
    for (int o = begin + threadIdx.x; o < end; o += kThreads) {
      float sum = 0;
      for (int r = 0; r < any_rank; ++r) sum += ToFloat(b[static_cast<int64_t>(o) * any_rank + r]) * inner[r];
      out[o] = FromFloat<T>(scale * sum);
    }
  } else {
    for (int o = begin + threadIdx.x; o < end; o += kTogether * kThreads) {
      float sum[kTogether] = {};
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        float w[kTogether][kWide<T>];
#pragma unroll
        for (int m = 0; m < kTogether; ++m) {
          const int row = o + m * kThreads < end ? o + m * kThreads : o;  // all loads at once, needed or not
          Load(b + static_cast<int64_t>(row) * kRank + k * kWide<T>, w[m]);
        }
#pragma unroll
        for (int m = 0; m < kTogether; ++m) {
#pragma unroll
          for (int j = 0; j < kWide<T>; ++j) sum[m] += w[m][j] * inner[k * kWide<T> + j];
        }
      }
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
        if (o + m * kThreads < end) out[o + m * kThreads] = FromFloat<T>(scale * sum[m]);
      }
    }
  }
}

// ---- Several rows ----

struct Part {
  float v[kWarps][16][kChunk + 1];
};
constexpr int kMostStaged = 64;
struct Staged {
  alignas(16) Bf16 v[kWarps][16][kMostStaged];
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
  // So many steps' loads are on their way at once.
  constexpr int kDeep = kTiles > 1 ? 2 : 4;
  for (int begin = warp_of_tile * 32 + q * 8; begin - q * 8 < inputs; begin += kDeep * warps * 32) {
    Pairs<4> upper[kDeep], lower[kDeep], w[kDeep][kTiles];
#pragma unroll
    for (int d = 0; d < kDeep; ++d) {
      const int k = begin + d * warps * 32;
      upper[d] = load(x + g * x_stride, k, g < rows);
      lower[d] = load(x + (g + 8) * x_stride, k, g + 8 < rows);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const int r = from + t * 8 + g;
        w[d][t] = load(a + static_cast<int64_t>(r) * inputs, k, r < rank);
      }
    }
#pragma unroll
    for (int d = 0; d < kDeep; ++d) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        Mma(sum[t], upper[d].v[0], lower[d].v[0], upper[d].v[1], lower[d].v[1], w[d][t].v[0], w[d][t].v[1]);
        Mma(sum[t], upper[d].v[2], lower[d].v[2], upper[d].v[3], lower[d].v[3], w[d][t].v[2], w[d][t].v[3]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) part->v[warp][g + i / 2 * 8][t * 8 + 2 * q + i % 2] = sum[t][i];
  }
}

// out = scale * inner B^T for outputs [begin, end), a warp some tiles of eight at a time, which go out by
// way of `staged`, so that a row's outputs are written together. kSteps: of 16 ranks.
template <int kSteps>
__device__ inline void Expand(const Bf16* b, const Bf16 (*inner)[kMostRanks], int rank, float scale, int begin, int end,
                              int rows, Bf16* out, int64_t stride, Staged* staged) {
  // So many tiles' loads are on their way at once.
  constexpr int kTogether = 8 / kSteps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const bool aligned = rank % 4 == 0;
  constexpr int kWidth = 8 * kTogether;
  Bf16(*mine)[kMostStaged] = staged->v[warp];
  const bool writes_packs = stride % 8 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  for (int first = begin + warp * kWidth; first < end; first += kWarps * kWidth) {
    float sum[kTogether][4] = {};
    for (int from = 0; from < rank; from += 16 * kSteps) {
      Pairs<2> w[kTogether][kSteps];
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
        const int o = first + m * 8 + g;
        const Bf16* row = b + static_cast<int64_t>(o) * rank;
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const int r = from + s * 16 + q * 4;
          const bool inside = o < end && r < rank;
          w[m][s] = aligned ? LoadPairs<2>(row + r, inside) : GatherPairs<2>(row + r, inside ? rank - r : 0);
        }
      }
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int r = from + s * 16 + q * 4;
        if (r - q * 4 >= rank) break;
        const Pairs<2> upper = LoadPairs<2>(&inner[g][r], true), lower = LoadPairs<2>(&inner[g + 8][r], true);
#pragma unroll
        for (int m = 0; m < kTogether; ++m)
          Mma(sum[m], upper.v[0], lower.v[0], upper.v[1], lower.v[1], w[m][s].v[0], w[m][s].v[1]);
      }
    }
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kTogether; ++m) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        *reinterpret_cast<__nv_bfloat162*>(&mine[g + i / 2 * 8][m * 8 + 2 * q]) =
            __floats2bfloat162_rn(scale * sum[m][i], scale * sum[m][i + 1]);
      }
    }
    __syncwarp();
    for (int i = lane; i < rows * kTogether; i += 32) {
      const int at = i / kTogether, tile = i % kTogether * 8, column = first + tile;
      if (writes_packs && column + 8 <= end) {
        *reinterpret_cast<uint4*>(out + at * stride + column) = *reinterpret_cast<const uint4*>(&mine[at][tile]);
      } else {
        for (int j = 0; j < 8 && column + j < end; ++j) out[at * stride + column + j] = mine[at][tile + j];
      }
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
      inner[i / width][from + i % width] = FromFloat<Bf16>(SumOverBlocks(sums, i));
    }
    SyncTile();  // and nobody leaves, or adds up the next ones, while another reads from it
  }
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

__device__ inline void Clear(Bf16* out, int64_t stride, int rows, Share share) {
  const int width = share.last - share.first;
  out += share.first;
  if (width % 8 == 0 && stride % 8 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
    for (int i = threadIdx.x; i < rows * (width / 8); i += kThreads) {
      *reinterpret_cast<uint4*>(out + i / (width / 8) * stride + i % (width / 8) * 8) = uint4{};
    }
    return;
  }
  for (int i = threadIdx.x; i < rows * width; i += kThreads) out[i / width * stride + i % width] = FromFloat<Bf16>(0);
}

// Copies that are under way while the threads go on; on 16 bytes.
__device__ inline void BeginCopy(const void* from, void* to, int bytes) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  for (int at = threadIdx.x * 16; at < bytes; at += kThreads * 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address + at), "l"(static_cast<const char*>(from) + at) : "memory");
  }
}
__device__ inline void EndCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

extern __shared__ __align__(16) char staged_bytes[];

// `room`: bytes of B that may lie in shared memory; they are fetched while A is read.
template <bool kAligned>
__device__ inline void RowDelta(const Bf16* x, const LoraEntry& entry, int inputs, Share share, Bf16* out, int room) {
  __shared__ float part[kMostRanks], inner[kMostRanks];
  constexpr int N = kAligned ? kWide<Bf16> : 1;
  const Bf16 *a = static_cast<const Bf16*>(entry.a_RI), *b = static_cast<const Bf16*>(entry.b_OR);
  const int blocks = BlocksOfTile(), step = (inputs / N + blocks - 1) / blocks * N, begin = BlockOfTile() * step;
  const int width = max(share.last - share.first, 0), staged = min(width, room / static_cast<int>(entry.rank * sizeof(Bf16))) / 8 * 8;
  BeginCopy(b + static_cast<int64_t>(share.first) * entry.rank, staged_bytes, staged * entry.rank * static_cast<int>(sizeof(Bf16)));
  ShrinkRow<Bf16, N>(x, a, inputs, begin, min(begin + step, inputs), entry.rank, part);
  SyncTile();
  for (int r = threadIdx.x; r < entry.rank; r += kThreads) {
    inner[r] = SumOverBlocks(part, r);
  }
  ArriveAtTile();
  EndCopies();
  __syncthreads();
  auto expand = [&]<int kRank>() {
    ExpandRow<Bf16, kRank>(b, inner, entry.rank, entry.scale, share.first + staged, share.last, out);
    ExpandRow<Bf16, kRank>(reinterpret_cast<const Bf16*>(staged_bytes), inner, entry.rank, entry.scale, 0, staged, out + share.first);
    WaitForTile();  // nobody leaves while another reads from it
  };
  switch (entry.rank) {
    case 8:
      return expand.template operator()<8>();
    case 16:
      return expand.template operator()<16>();
    case 32:
      return expand.template operator()<32>();
    case 64:
      return expand.template operator()<64>();
    default:
      return expand.template operator()<0>();
  }
}

template <bool kAligned>
__device__ inline void RowsDelta(const Bf16* x, int64_t x_stride, int rows, const LoraEntry& entry, int inputs,
                                 Share share, Bf16* out, int64_t stride) {
  __shared__ union {
    Part part;
    Staged staged;
  } shared;
  __shared__ float sums[16 * kChunk];
  __shared__ alignas(16) Bf16 inner[16][kMostRanks];
  const Bf16 *a = static_cast<const Bf16*>(entry.a_RI), *b = static_cast<const Bf16*>(entry.b_OR);
  // What lies beyond the rank is multiplied, too.
  const int padded = (entry.rank + 15) / 16 * 16;
  for (int i = threadIdx.x; i < 16 * (padded - entry.rank); i += kThreads) {
    inner[i % 16][entry.rank + i / 16] = FromFloat<Bf16>(0);
  }
  ShrinkAll<kAligned>(x, x_stride, rows, a, inputs, entry.rank, &shared.part, sums, inner);
  auto expand = [&]<int kSteps>() {
    Expand<kSteps>(b, inner, entry.rank, entry.scale, share.first, share.last, rows, out, stride, &shared.staged);
  };
  switch (padded) {
    case 16:
      return expand.template operator()<1>();
    case 32:
      return expand.template operator()<2>();
    default:
      return expand.template operator()<4>();
  }
}

template <bool kAligned, bool kRowsOnly>
__device__ inline void TileDelta(const Bf16* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot,
                                 const LoraTile& tile, const LoraTarget& target, Bf16* delta, int64_t delta_stride,
                                 int inputs, int room) {
  if (tile.rows == 0) return;  // for all blocks of the cluster alike, here and below
  const int p = blockIdx.y;
  const Share share = ShareOf(target.columns[p]);
  Bf16* out = delta + tile.first_row * delta_stride + target.first_column[p];
  LoraEntry entry{nullptr, nullptr, 0, 0};
  if (tile.slot >= 0) entry = entries[tile.slot * entries_per_slot + target.entry[p]];
  if (entry.rank == 0) {
    return Clear(out, delta_stride, tile.rows, share);
  }
  x += tile.first_row * x_stride;
  if (kRowsOnly || tile.rows == 1) {
    RowDelta<kAligned>(x, entry, inputs, share, out, room);
  } else {
    RowsDelta<kAligned>(x, x_stride, tile.rows, entry, inputs, share, out, delta_stride);
  }
}

// Behind a product (LoraStart::kBesideProduct) it begins when that one's input, which is its own, is there. Over is it
// only when the product is, for one block waits for that: whoever waits for it has both.
// kRowsOnly: no tile of an adapter has several rows. kBlocks: that should find room on a processor. room: bytes of shared memory for B.
template <bool kAligned, bool kRowsOnly, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    Delta(const Bf16* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot, const LoraTile* tiles,
          LoraTarget target, Bf16* delta, int64_t delta_stride, int inputs, int room) {
  LetNextBegin();
  TileDelta<kAligned, kRowsOnly>(x, x_stride, entries, entries_per_slot, tiles[blockIdx.x / BlocksOfTile()], target, delta,
                      delta_stride, inputs, room);
  if (blockIdx.x == 0 && blockIdx.y == 0) WaitForBefore();
}

using Kernel = decltype(&Delta<true, false, 2>);

// How a launch is cut.
struct Cut {
  unsigned blocks = 1;  // of a cluster
  Kernel kernel = Delta<false, false, 2>;
  int room = 0;
};

// By measurements on an H100. Few tiles are over sooner if many blocks share them, and many fill the device anyway.
Cut CutFor(const LoraBatch& batch, int projections, bool aligned, LoraStart start) {
  Cut cut;
  if (aligned) cut.kernel = Delta<true, false, 2>;
  if (!IsHopperOrLater()) return cut;
  const bool are_few = batch.tile_count <= 16;
  cut.blocks = batch.sharing == LoraSharing::kAlike ? 2 : batch.sharing == LoraSharing::kMost && batch.tile_count <= 40 ? 8 : are_few ? 4 : 2;
  if (batch.sharing != LoraSharing::kNone || !aligned) return cut;
  // Single rows alone need fewer registers, so that more blocks find room beside the product's.
  cut.kernel = are_few ? Delta<true, true, 2> : Delta<true, true, 3>;
  if (projections == 1) cut.blocks = 4;
  // What a StreamedProduct leaves of a processor's shared memory, for one block or two; cuBLAS's kernels leave nothing.
  if (start == LoraStart::kBesideProduct) cut.room = batch.tile_count * cut.blocks * projections <= Processors() ? 64 << 10 : 32 << 10;
  return cut;
}

void PrepareKernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const Kernel kernel : {Delta<true, true, 2>, Delta<true, true, 3>}) {
      if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10) != cudaSuccess) {
        throw std::runtime_error("CUDA kernel: no room for GroupedLora in shared memory");
      }
    }
  });
}

}  // namespace

int MostGroupedRanks() { return kMostRanks; }

void GroupedLora(const void* x_TI, int64_t x_stride, const LoraBatch& batch, LoraTarget target, void* delta_TO,
                 int64_t delta_stride, int64_t inputs, Stream stream, LoraStart start) {
  const bool aligned = inputs % 8 == 0 && x_stride % 8 == 0;
  const Cut cut = CutFor(batch, target.count, aligned, start);
  if (cut.room > 0) PrepareKernels();
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {cut.blocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(batch.tile_count) * cut.blocks, target.count);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = cut.room;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = !IsHopperOrLater() ? 0 : start == LoraStart::kBesideProduct ? 2 : 1;
  cudaLaunchKernelEx(&config, cut.kernel, static_cast<const Bf16*>(x_TI), x_stride,
                     batch.entries, batch.entries_per_slot, batch.tiles, target, static_cast<Bf16*>(delta_TO),
                     delta_stride, static_cast<int>(inputs), cut.room);
  CheckLaunch();
}

}  // namespace attune::cuda
