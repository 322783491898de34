#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

// The largest value so far, and the sum of exp(value - top).
struct Running {
  float top, sum;
};

__device__ inline Running Join(Running a, Running b) {
  const float top = fmaxf(a.top, b.top);
  return {top, a.sum * __expf(a.top - top) + b.sum * __expf(b.top - top)};
}

// Low enough for any logit, and finite: the difference of two is a number.
constexpr float kLowest = -1e30f;

__device__ inline Running ReduceRunning(Running value, Running* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  auto across = [](Running v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      v = Join(v, {__shfl_xor_sync(~0u, v.top, offset), __shfl_xor_sync(~0u, v.sum, offset)});
    }
    return v;
  };
  value = across(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  return across(lane < warps ? shared[lane] : Running{kLowest, 0});
}

template <typename T, int N>
__global__ void SoftmaxRows(T* logits, const int64_t* targets, const float* scales, int64_t scale_stride, float* losses,
                            uint8_t* correct, int vocabulary) {
  __shared__ Running shared[32];
  T* row = logits + blockIdx.x * static_cast<int64_t>(vocabulary);
  const int64_t target = targets[blockIdx.x];
  if (target < 0) {
    const float zeros[N] = {};
    for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) Store(row + i, zeros);
    if (threadIdx.x == 0) losses[blockIdx.x] = 0, correct[blockIdx.x] = 0;
    return;
  }
  const float at_target = ToFloat(row[target]);
  Running mine{kLowest, 0};
  for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
    float v[N];
    Load(row + i, v);
    float top = mine.top;
#pragma unroll
    for (int j = 0; j < N; ++j) top = fmaxf(top, v[j]);
    mine.sum *= __expf(mine.top - top);
    mine.top = top;
#pragma unroll
    for (int j = 0; j < N; ++j) mine.sum += __expf(v[j] - top);
  }
  const Running all = ReduceRunning(mine, shared);  // every thread has read at_target by now
  const float scale = scales ? scales[blockIdx.x * scale_stride] : 1.0f, factor = scale / all.sum;
  for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
    float v[N];
    Load(row + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = __expf(v[j] - all.top) * factor - (i + j == target ? scale : 0.0f);
    Store(row + i, v);
  }
  if (threadIdx.x == 0) {
    losses[blockIdx.x] = logf(all.sum) + all.top - at_target;
    correct[blockIdx.x] = at_target >= all.top;
  }
}

}  // namespace

void SoftmaxLoss(Type type, void* logits_NV, const int64_t* targets_N, const float* scale, int64_t scale_stride,
                 float* losses_N, uint8_t* correct_N, int64_t rows, int64_t vocabulary, Stream stream) {
  Dispatch(type, vocabulary, [&]<typename T, int N>() {
    SoftmaxRows<T, N><<<rows, RowThreads(vocabulary, N), 0, stream>>>(static_cast<T*>(logits_NV), targets_N, scale,
                                                                      scale_stride, losses_N, correct_N,
                                                                      static_cast<int>(vocabulary));
  });
}

}  // namespace attune::cuda
