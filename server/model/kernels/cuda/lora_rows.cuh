#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_ROWS_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_ROWS_CUH_

#include "server/model/kernels/cuda/lora_tile.cuh"

// LoRA of several rows of one adapter, which read it once, for the tensor cores.
namespace attune::cuda::lora {

constexpr int kChunk = 32;  // ranks that are added up at a time
static_assert(16 * kChunk <= kMostRanks);

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

}  // namespace attune::cuda::lora

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_LORA_ROWS_CUH_
