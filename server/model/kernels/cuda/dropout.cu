#include "server/model/kernels/cuda/common.cuh"
#include "server/model/kernels/cuda/mixed_bits.h"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int N>
__global__ void Mask(const T* x, const T* addend, uint32_t threshold, float scale, const int64_t* step_seed,
                     uint32_t seed, int64_t first, T* y, int64_t count) {
  const int64_t i = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * N;
  if (i >= count) return;
  if (step_seed) seed = DropoutSeed(*step_seed, seed);
  float v[N], sum[N] = {};
  Load(x + i, v);
  if (addend) Load(addend + i, sum);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (MixedBits(static_cast<uint32_t>(first + i + j), seed) >= threshold) sum[j] += v[j] * scale;
  }
  Store(y + i, sum);
}

template <typename T, int N>
__global__ void MaskRows(const T* x, const T* addend, uint32_t threshold, float scale, const int64_t* step_seeds,
                         const int64_t* rows, uint32_t which, T* y, int columns) {
  const uint32_t seed = DropoutSeed(step_seeds[blockIdx.x], which);
  const int64_t at = blockIdx.x * static_cast<int64_t>(columns), first = rows[blockIdx.x] * columns;
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float v[N], sum[N] = {};
    Load(x + at + i, v);
    if (addend) Load(addend + at + i, sum);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (MixedBits(static_cast<uint32_t>(first + i + j), seed) >= threshold) sum[j] += v[j] * scale;
    }
    Store(y + at + i, sum);
  }
}

}  // namespace

void DropoutRows(Type type, const void* x_TD, const void* addend_TD, double p, const int64_t* step_seeds_T,
                 const int64_t* rows_T, uint32_t which, void* y_TD, int64_t rows, int64_t columns, Stream stream) {
  Dispatch(type, columns, [&]<typename T, int N>() {
    MaskRows<T, N><<<rows, RowThreads(columns, N), 0, stream>>>(
        static_cast<const T*>(x_TD), static_cast<const T*>(addend_TD), static_cast<uint32_t>(p * 4294967296.0),
        static_cast<float>(1.0 / (1.0 - p)), step_seeds_T, rows_T, which, static_cast<T*>(y_TD),
        static_cast<int>(columns));
  });
}

void Dropout(Type type, const void* x, const void* addend, double p, const int64_t* step_seed, uint32_t seed,
             int64_t first, void* y, int64_t count, Stream stream) {
  Dispatch(type, count, [&]<typename T, int N>() {
    const unsigned blocks = (count / N + kThreads - 1) / kThreads;
    Mask<T, N><<<blocks, kThreads, 0, stream>>>(
        static_cast<const T*>(x), static_cast<const T*>(addend), static_cast<uint32_t>(p * 4294967296.0),
        static_cast<float>(1.0 / (1.0 - p)), step_seed, seed, first, static_cast<T*>(y), count);
  });
}

}  // namespace attune::cuda
