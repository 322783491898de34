#include "server/model/kernels/cuda/common.cuh"

// Low-rank terms of a batch whose rows have adapters of their own (after Chen et al. 2024, Punica):
// memory-bound, so plain loads; rows of one adapter share it in the L2 cache.
namespace attune::cuda {
namespace {

using Bf16 = __nv_bfloat16;
constexpr int kWarps = 8;

// A block has kWarps ranks of a projection of a row; a warp the dot product of one.
template <typename T, int N>
__global__ void Shrink(const T* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot,
                       const int32_t* slots, LoraTarget target, float* u, int most_ranks, int inputs) {
  const int t = blockIdx.x, p = blockIdx.y, r = blockIdx.z * kWarps + threadIdx.y, slot = slots[t];
  if (slot < 0) return;
  const LoraEntry entry = entries[slot * entries_per_slot + target.entry[p]];
  if (r >= entry.rank) return;
  const T* a = static_cast<const T*>(entry.a_RI) + static_cast<int64_t>(r) * inputs;
  x += t * x_stride;
  float sum = 0;
#pragma unroll 4
  for (int i = threadIdx.x * N; i < inputs; i += 32 * N) {
    float v[N], w[N];
    Load(a + i, w);
    Load(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += v[j] * w[j];
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x == 0) u[(static_cast<int64_t>(t) * target.count + p) * most_ranks + r] = sum;
}

// A thread has one output; a block those of a projection of a row.
template <typename T, int N>
__global__ void Expand(const float* u, const LoraEntry* entries, int64_t entries_per_slot, const int32_t* slots,
                       LoraTarget target, T* y, int64_t y_stride, int most_ranks) {
  extern __shared__ float inner[];
  const int t = blockIdx.x, p = blockIdx.y, slot = slots[t];
  if (slot < 0) return;
  const LoraEntry entry = entries[slot * entries_per_slot + target.entry[p]];
  if (entry.rank == 0) return;
  for (int r = threadIdx.x; r < entry.rank; r += blockDim.x) {
    inner[r] = u[(static_cast<int64_t>(t) * target.count + p) * most_ranks + r] * entry.scale;
  }
  __syncthreads();
  const int o = blockIdx.z * blockDim.x + threadIdx.x;
  if (o >= target.columns[p]) return;
  const T* b = static_cast<const T*>(entry.b_OR) + static_cast<int64_t>(o) * entry.rank;
  float sum = 0;
  int r = 0;
  if (entry.rank % kWide<T> == 0) {
    for (; r < entry.rank; r += kWide<T>) {
      float w[kWide<T>];
      Load(b + r, w);
#pragma unroll
      for (int j = 0; j < kWide<T>; ++j) sum += w[j] * inner[r + j];
    }
  } else {
    for (; r < entry.rank; ++r) sum += ToFloat(b[r]) * inner[r];
  }
  T* out = y + t * y_stride + target.first_column[p] + o;
  *out = FromFloat<T>(ToFloat(*out) + sum);
}

}  // namespace

void LoraShrink(const void* x_TI, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot,
                const int32_t* slots_T, LoraTarget target, float* u_TPR, int64_t most_ranks, int64_t rows,
                int64_t inputs, Stream stream) {
  const dim3 blocks(rows, target.count, (most_ranks + kWarps - 1) / kWarps), threads(32, kWarps);
  Dispatch(Type::kBfloat16, inputs, [&]<typename T, int N>() {
    Shrink<T, N><<<blocks, threads, 0, stream>>>(static_cast<const T*>(x_TI), x_stride, entries, entries_per_slot,
                                                 slots_T, target, u_TPR, static_cast<int>(most_ranks),
                                                 static_cast<int>(inputs));
  });
}

void LoraExpand(const float* u_TPR, const LoraEntry* entries, int64_t entries_per_slot, const int32_t* slots_T,
                LoraTarget target, void* y_TO, int64_t y_stride, int64_t most_ranks, int64_t rows, Stream stream) {
  int64_t widest = 0;
  for (int p = 0; p < target.count; ++p) widest = target.columns[p] > widest ? target.columns[p] : widest;
  constexpr int kThreads = 256;
  const dim3 blocks(rows, target.count, (widest + kThreads - 1) / kThreads);
  Dispatch(Type::kBfloat16, 1, [&]<typename T, int N>() {
    Expand<T, N><<<blocks, kThreads, most_ranks * sizeof(float), stream>>>(
        u_TPR, entries, entries_per_slot, slots_T, target, static_cast<T*>(y_TO), y_stride,
        static_cast<int>(most_ranks));
  });
}

}  // namespace attune::cuda
