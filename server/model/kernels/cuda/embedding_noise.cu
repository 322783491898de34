#include "server/model/kernels/cuda/common.cuh"
#include "server/model/kernels/cuda/mixed_bits.h"

namespace attune::cuda {
namespace {

// One block a row.
template <typename T, int N>
__global__ void AddNoise(T* x, const int64_t* ids, const int32_t* starts, int sequences, int64_t virtual_tokens,
                         double alpha, const int64_t* step_seed, int64_t seed_value, int columns) {
  const int64_t row = blockIdx.x;
  if (ids[row] < 0) return;
  // The last sequence that starts at or before the row: empty ones in front of it do not hold it.
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (starts[middle] <= row ? low : high) = middle;
  }
  const float magnitude = NoiseMagnitude(alpha, starts[low + 1] - starts[low] - virtual_tokens, columns);
  const uint32_t seed = DropoutSeed(step_seed ? *step_seed : seed_value, kNoiseStream);
  const int64_t at = row * columns;
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float v[N];
    Load(x + at + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] += UniformNoise(static_cast<uint32_t>(at + i + j), seed) * magnitude;
    Store(x + at + i, v);
  }
}

}  // namespace

void EmbeddingNoise(Type type, void* x_TD, const int64_t* ids_T, const int32_t* starts, int64_t sequences,
                    int64_t virtual_tokens, double alpha, const int64_t* step_seed, int64_t seed_value, int64_t rows,
                    int64_t columns, Stream stream) {
  if (rows == 0) return;
  Dispatch(type, columns, [&]<typename T, int N>() {
    AddNoise<T, N><<<static_cast<unsigned>(rows), RowThreads(columns, N), 0, stream>>>(
        static_cast<T*>(x_TD), ids_T, starts, static_cast<int>(sequences), virtual_tokens, alpha, step_seed, seed_value,
        static_cast<int>(columns));
  });
}

}  // namespace attune::cuda
