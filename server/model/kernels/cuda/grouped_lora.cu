#include <cooperative_groups.h>

#include "server/model/kernels/cuda/common.cuh"

// Low-rank terms of a batch whose rows have adapters of their own (after Chen et al. 2024, Punica).
// Bound by reading the adapters once; rows of one adapter find it in the L2 cache. A row under a
// projection is the work of a cluster of blocks, which share out the inputs, add up A x between
// them, and share out the outputs.
namespace attune::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kBlocks = 2;  // of a cluster; of 1, 2, 4 and 8 the fastest
constexpr int kMostRanks = 512;

// Clusters came with compute capability 9.0; before, a block does all.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline int BlocksOfRow() { return static_cast<int>(cg::this_cluster().num_blocks()); }
__device__ inline int BlockOfRow() { return static_cast<int>(cg::this_cluster().block_rank()); }
__device__ inline void SyncRow() { cg::this_cluster().sync(); }
__device__ inline const float* SharedOf(float* mine, int block) { return cg::this_cluster().map_shared_rank(mine, block); }
#else
__device__ inline int BlocksOfRow() { return 1; }
__device__ inline int BlockOfRow() { return 0; }
__device__ inline void SyncRow() { __syncthreads(); }
__device__ inline const float* SharedOf(float* mine, int) { return mine; }
#endif

// part[r] = A's row r times x over inputs [begin, end). A warp has two rows at a time, and
// loads of four steps on their way.
template <typename T, int N>
__device__ inline void Shrink(const T* x, const T* a, int inputs, int begin, int end, int rank, float* part) {
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
__device__ inline void Expand(const T* b, const float* inner, int any_rank, float scale, int begin, int end, T* out) {
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

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    Delta(const T* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot, const int32_t* slots,
          LoraTarget target, T* delta, int64_t delta_stride, int inputs) {
  __shared__ float part[kMostRanks], inner[kMostRanks];
  const int row = blockIdx.x / BlocksOfRow(), block = BlockOfRow(), blocks = BlocksOfRow(), p = blockIdx.y;
  const int slot = slots[row], columns = target.columns[p];
  const int width = (columns + blocks - 1) / blocks, first = block * width;
  const int last = first + width < columns ? first + width : columns;
  T* out = delta + row * delta_stride + target.first_column[p];
  LoraEntry entry{nullptr, nullptr, 0, 0};
  if (slot >= 0) entry = entries[slot * entries_per_slot + target.entry[p]];
  if (entry.rank == 0) {  // for all blocks of the cluster alike
    for (int o = first + threadIdx.x; o < last; o += kThreads) out[o] = FromFloat<T>(0);
    return;
  }
  const T *a = static_cast<const T*>(entry.a_RI), *b = static_cast<const T*>(entry.b_OR);
  const int step = (inputs / N + blocks - 1) / blocks * N, begin = block * step;
  Shrink<T, N>(x + row * x_stride, a, inputs, begin, begin + step < inputs ? begin + step : inputs, entry.rank, part);
  SyncRow();
  for (int r = threadIdx.x; r < entry.rank; r += kThreads) {
    float sum = 0;
    for (int k = 0; k < blocks; ++k) sum += SharedOf(part, k)[r];
    inner[r] = sum;
  }
  SyncRow();  // and nobody leaves while another reads from it
  switch (entry.rank) {
    case 8: return Expand<T, 8>(b, inner, 8, entry.scale, first, last, out);
    case 16: return Expand<T, 16>(b, inner, 16, entry.scale, first, last, out);
    case 32: return Expand<T, 32>(b, inner, 32, entry.scale, first, last, out);
    case 64: return Expand<T, 64>(b, inner, 64, entry.scale, first, last, out);
    default: return Expand<T, 0>(b, inner, entry.rank, entry.scale, first, last, out);
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
                 const int32_t* slots_T, LoraTarget target, void* delta_TO, int64_t delta_stride, int64_t rows,
                 int64_t inputs, Stream stream) {
  Dispatch(Type::kBfloat16, inputs, [&]<typename T, int N>() {
    cudaLaunchAttribute cluster;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {kBlocks, 1, 1};
    cudaLaunchConfig_t config = {};
    const unsigned blocks = HasClusters() ? kBlocks : 1;
    config.gridDim = dim3(static_cast<unsigned>(rows) * blocks, target.count);
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = HasClusters() ? 1 : 0;
    cudaLaunchKernelEx(&config, Delta<T, N>, static_cast<const T*>(x_TI), x_stride, entries, entries_per_slot, slots_T,
                       target, static_cast<T*>(delta_TO), delta_stride, static_cast<int>(inputs));
  });
}

}  // namespace attune::cuda
