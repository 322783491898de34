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

// The same for rows blockIdx.x, blockIdx.x + gridDim.x, ..., with the sums over them of w's
// gradient in partials' row blockIdx.x. REQUIRES: the block's threads hold a row at once.
template <typename T, int N>
__global__ void NormBackwardAndWeight(const T* dy, const T* x, const T* w, const float* inverse_rms, const T* residual,
                                      T* dx, float* partials, int rows, int columns) {
  __shared__ float shared[33];
  const int i = threadIdx.x * N;
  const bool inside = i < columns;
  float g[N] = {}, sum[N] = {};
  if (inside) Load(w + i, g);
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t at = row * static_cast<int64_t>(columns) + i;
    const float r = inverse_rms[row];
    float d[N] = {}, v[N] = {}, e[N] = {}, dot = 0;
    if (inside) {
      Load(dy + at, d);
      Load(x + at, v);
      if (residual) Load(residual + at, e);
#pragma unroll
      for (int j = 0; j < N; ++j) dot += d[j] * g[j] * v[j];
    }
    const float k = BlockReduce(dot, 0.0f, shared, Sum()) * r * r / columns;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      sum[j] += d[j] * v[j] * r;
      e[j] += r * (d[j] * g[j] - v[j] * k);
    }
    if (inside) Store(dx + at, e);
  }
#pragma unroll
  for (int j = 0; inside && j < N; ++j) partials[blockIdx.x * static_cast<int64_t>(columns) + i + j] = sum[j];
}

// A block a 32 columns; its warps share out the strips.
__global__ void AddStrips(const float* partials, float* dw, int strips, int64_t columns) {
  __shared__ float sums[8][32];
  const int64_t column = blockIdx.x * 32ll + threadIdx.x;
  float sum = 0;
  if (column < columns) {
    for (int strip = threadIdx.y; strip < strips; strip += 8) sum += partials[strip * columns + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  dw[column] += sum;
}

}  // namespace

bool RmsNormBackwardTakesWeight(Type type, int64_t columns) {
  const int width = type == Type::kFloat32 ? kWide<float> : kWide<__nv_bfloat16>;
  return columns <= 1024 * (columns % width == 0 ? width : 1);
}

void RmsNormBackwardAndWeight(Type type, const void* dy_TD, const void* x_TD, const void* w_D,
                              const float* inverse_rms_T, const void* residual_TD, void* dx_TD, float* partials,
                              float* dw_D, int64_t rows, int64_t columns, Stream stream) {
  const int strips = static_cast<int>(rows < kNormStrips ? rows : kNormStrips);
  Dispatch(type, columns, [&]<typename T, int N>() {
    NormBackwardAndWeight<T, N><<<strips, RowThreads(columns, N), 0, stream>>>(
        static_cast<const T*>(dy_TD), static_cast<const T*>(x_TD), static_cast<const T*>(w_D), inverse_rms_T,
        static_cast<const T*>(residual_TD), static_cast<T*>(dx_TD), partials, static_cast<int>(rows),
        static_cast<int>(columns));
  });
  AddStrips<<<static_cast<unsigned>((columns + 31) / 32), dim3(32, 8), 0, stream>>>(partials, dw_D, strips, columns);
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
