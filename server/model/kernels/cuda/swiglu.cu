#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int N>
__global__ void GateForward(const T* gate_up, T* out, int inner) {
  const int i = (blockIdx.x * kThreads + threadIdx.x) * N;
  if (i >= inner) return;
  const T* in = gate_up + blockIdx.y * static_cast<int64_t>(2 * inner) + i;
  float g[N], u[N];
  Load(in, g);
  Load(in + inner, u);
#pragma unroll
  for (int j = 0; j < N; ++j) u[j] *= g[j] / (1.0f + __expf(-g[j]));
  Store(out + blockIdx.y * static_cast<int64_t>(inner) + i, u);
}

template <typename T, int N>
__global__ void GateBackward(const T* gate_up, const T* dout, T* dgate_up, int inner) {
  const int i = (blockIdx.x * kThreads + threadIdx.x) * N;
  if (i >= inner) return;
  const int64_t row = blockIdx.y * static_cast<int64_t>(2 * inner) + i;
  float g[N], u[N], d[N];
  Load(gate_up + row, g);
  Load(gate_up + row + inner, u);
  Load(dout + blockIdx.y * static_cast<int64_t>(inner) + i, d);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float s = 1.0f / (1.0f + __expf(-g[j]));
    const float du = d[j] * g[j] * s;
    g[j] = d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s));
    u[j] = du;
  }
  Store(dgate_up + row, g);
  Store(dgate_up + row + inner, u);
}

// Rows lie along y, which has room for 65535: more go in several launches.
constexpr int64_t kMaxRows = 65535;

}  // namespace

void SwiGluForward(Type type, const void* gate_up_T2I, void* out_TI, int64_t rows, int64_t inner, Stream stream) {
  Dispatch(type, inner, [&]<typename T, int N>() {
    const unsigned blocks = (inner / N + kThreads - 1) / kThreads;
    for (int64_t begin = 0; begin < rows; begin += kMaxRows) {
      const unsigned n = rows - begin < kMaxRows ? rows - begin : kMaxRows;
      GateForward<T, N><<<dim3(blocks, n), kThreads, 0, stream>>>(static_cast<const T*>(gate_up_T2I) + begin * 2 * inner,
                                                             static_cast<T*>(out_TI) + begin * inner, inner);
    }
  });
}

void SwiGluBackward(Type type, const void* gate_up_T2I, const void* dout_TI, void* dgate_up_T2I, int64_t rows,
                    int64_t inner, Stream stream) {
  Dispatch(type, inner, [&]<typename T, int N>() {
    const unsigned blocks = (inner / N + kThreads - 1) / kThreads;
    for (int64_t begin = 0; begin < rows; begin += kMaxRows) {
      const unsigned n = rows - begin < kMaxRows ? rows - begin : kMaxRows;
      GateBackward<T, N><<<dim3(blocks, n), kThreads, 0, stream>>>(
          static_cast<const T*>(gate_up_T2I) + begin * 2 * inner, static_cast<const T*>(dout_TI) + begin * inner,
          static_cast<T*>(dgate_up_T2I) + begin * 2 * inner, inner);
    }
  });
}

}  // namespace attune::cuda
