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

}  // namespace

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
