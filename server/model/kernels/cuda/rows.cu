#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

template <typename T, int N>
__global__ void Take(const T* x, const int64_t* index, T* out, int columns) {
  const int64_t from = index[blockIdx.x];
  T* to = out + blockIdx.x * static_cast<int64_t>(columns);
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float v[N] = {};
    if (from >= 0) Load(x + from * columns + i, v);
    Store(to + i, v);
  }
}

template <typename T>
__global__ void AddPrefix(const T* x, const int32_t* starts, int sequences, float* out, int columns) {
  const int n = blockIdx.x;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    float sum = 0;
    for (int s = 0; s < sequences; ++s) {
      const int64_t row = starts[s] + n;
      if (row < starts[s + 1]) sum += ToFloat(x[row * columns + i]);
    }
    out[n * static_cast<int64_t>(columns) + i] += sum;
  }
}

}  // namespace

void TakeRows(Type type, const void* x, const int64_t* index_T, void* out_TD, int64_t rows, int64_t columns,
              Stream stream) {
  Dispatch(type, columns, [&]<typename T, int N>() {
    Take<T, N><<<rows, RowThreads(columns, N), 0, stream>>>(static_cast<const T*>(x), index_T, static_cast<T*>(out_TD),
                                                           static_cast<int>(columns));
  });
}

void AddPrefixRows(Type type, const void* x_TD, const int32_t* starts, int64_t sequences, int64_t prefix,
                   float* out_ND, int64_t columns, Stream stream) {
  Dispatch(type, 1, [&]<typename T, int N>() {
    AddPrefix<T><<<prefix, RowThreads(columns, 1), 0, stream>>>(static_cast<const T*>(x_TD), starts,
                                                               static_cast<int>(sequences), out_ND,
                                                               static_cast<int>(columns));
  });
}

}  // namespace attune::cuda
