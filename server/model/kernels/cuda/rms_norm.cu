#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

template <typename T, int N>
__global__ void NormForward(const T* x, const T* delta, const T* w, float epsilon, T* sum_out, T* y, float* inverse_rms,
                        int columns) {
  __shared__ float shared[33];
  const int64_t row = blockIdx.x * static_cast<int64_t>(columns);
  const T* source = delta ? sum_out : x;
  float squares = 0;
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float v[N];
    Load(x + row + i, v);
    if (delta) {
      float d[N];
      Load(delta + row + i, d);
#pragma unroll
      // Rounded as it is stored: the backward pass must see the same statistics.
      for (int j = 0; j < N; ++j) v[j] = ToFloat(FromFloat<T>(v[j] + d[j]));
      Store(sum_out + row + i, v);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v[j] * v[j];
  }
  const float r = rsqrtf(BlockReduce(squares, 0.0f, shared, Sum()) / columns + epsilon);
  if (threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
  // Each thread reads back what it wrote itself.
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float v[N], g[N];
    Load(source + row + i, v);
    Load(w + i, g);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = v[j] * r * g[j];
    Store(y + row + i, v);
  }
}

// dx = r * (g - x * r^2 * mean(g * x)) with g = dy * w.
template <typename T, int N>
__global__ void NormBackward(const T* dy, const T* x, const T* w, const float* inverse_rms, const T* residual, T* dx,
                         int columns) {
  __shared__ float shared[33];
  const int64_t row = blockIdx.x * static_cast<int64_t>(columns);
  const float r = inverse_rms[blockIdx.x];
  float dot = 0;
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float d[N], v[N], g[N];
    Load(dy + row + i, d);
    Load(x + row + i, v);
    Load(w + i, g);
#pragma unroll
    for (int j = 0; j < N; ++j) dot += d[j] * g[j] * v[j];
  }
  const float k = BlockReduce(dot, 0.0f, shared, Sum()) * r * r / columns;
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    float d[N], v[N], g[N], e[N] = {};
    Load(dy + row + i, d);
    Load(x + row + i, v);
    Load(w + i, g);
    if (residual) Load(residual + row + i, e);
#pragma unroll
    for (int j = 0; j < N; ++j) e[j] += r * (d[j] * g[j] - v[j] * k);
    Store(dx + row + i, e);
  }
}

constexpr int kStripThreads = 128;

// Each row of blocks sums every kNormStrips-th row of its columns.
template <typename T, int N>
__global__ void WeightGradientStrips(const T* dy, const T* x, const float* inverse_rms, float* partials, int64_t rows,
                                     int64_t columns) {
  const int64_t column = (blockIdx.x * static_cast<int64_t>(kStripThreads) + threadIdx.x) * N;
  if (column >= columns) return;
  float sum[N] = {};
#pragma unroll 4
  for (int64_t row = blockIdx.y; row < rows; row += kNormStrips) {
    float d[N], v[N];
    Load(dy + row * columns + column, d);
    Load(x + row * columns + column, v);
    const float r = inverse_rms[row];
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += d[j] * v[j] * r;
  }
#pragma unroll
  for (int j = 0; j < N; ++j) partials[blockIdx.y * columns + column + j] = sum[j];
}

__global__ void AddStrips(const float* partials, float* dw, int64_t columns) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kStripThreads) + threadIdx.x;
  if (column >= columns) return;
  float sum = 0;
  for (int strip = 0; strip < kNormStrips; ++strip) sum += partials[strip * columns + column];
  dw[column] += sum;
}

unsigned BlocksFor(int64_t threads) { return static_cast<unsigned>((threads + kStripThreads - 1) / kStripThreads); }

}  // namespace

void RmsNormWeightGradient(Type type, const void* dy_TD, const void* x_TD, const float* inverse_rms_T, float* partials,
                           float* dw_D, int64_t rows, int64_t columns, Stream stream) {
  Dispatch(type, columns, [&]<typename T, int N>() {
    WeightGradientStrips<T, N><<<dim3(BlocksFor(columns / N), kNormStrips), kStripThreads, 0, stream>>>(
        static_cast<const T*>(dy_TD), static_cast<const T*>(x_TD), inverse_rms_T, partials, rows, columns);
  });
  AddStrips<<<BlocksFor(columns), kStripThreads, 0, stream>>>(partials, dw_D, columns);
  CheckLaunch();
}

void RmsNormForward(Type type, const void* x_TD, const void* delta_TD, const void* w_D, double epsilon, void* sum_TD,
                    void* y_TD, float* inverse_rms_T, int64_t rows, int64_t columns, Stream stream) {
  Dispatch(type, columns, [&]<typename T, int N>() {
    NormForward<T, N><<<rows, RowThreads(columns, N), 0, stream>>>(
        static_cast<const T*>(x_TD), static_cast<const T*>(delta_TD), static_cast<const T*>(w_D),
        static_cast<float>(epsilon), static_cast<T*>(sum_TD), static_cast<T*>(y_TD), inverse_rms_T,
        static_cast<int>(columns));
  });
}

void RmsNormBackward(Type type, const void* dy_TD, const void* x_TD, const void* w_D, const float* inverse_rms_T,
                     const void* residual_TD, void* dx_TD, int64_t rows, int64_t columns, Stream stream) {
  Dispatch(type, columns, [&]<typename T, int N>() {
    NormBackward<T, N><<<rows, RowThreads(columns, N), 0, stream>>>(
        static_cast<const T*>(dy_TD), static_cast<const T*>(x_TD), static_cast<const T*>(w_D), inverse_rms_T,
        static_cast<const T*>(residual_TD), static_cast<T*>(dx_TD), static_cast<int>(columns));
  });
}

}  // namespace attune::cuda
