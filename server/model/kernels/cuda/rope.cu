#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

// (a, b) turned by the angle of (c, s).
template <int N>
__device__ inline void Turn(float (&a)[N], float (&b)[N], const float* cos, const float* sin, float sign) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float x = a[j], y = b[j], s = sign * sin[j];
    a[j] = x * cos[j] - y * s;
    b[j] = y * cos[j] + x * s;
  }
}

template <typename T, int N>
__global__ void InPlace(T* qkv, int64_t row_stride, const float* cos, const float* sin, const int64_t* positions,
                        int heads, int half, float sign) {
  const int64_t position = positions[blockIdx.x] * half;
  qkv += blockIdx.x * row_stride;
  for (int item = threadIdx.x; item < heads * half / N; item += blockDim.x) {
    const int head = item / (half / N), i = item % (half / N) * N;
    T* x = qkv + head * 2 * half + i;
    float a[N], b[N];
    Load(x, a);
    Load(x + half, b);
    Turn(a, b, cos + position + i, sin + position + i, sign);
    Store(x, a);
    Store(x + half, b);
  }
}

// One head of one token in a block of its own: heads of q first, then k's, then v's.
template <typename T>
__device__ inline const T* HeadOf(const T* q, const T* k, const T* v, int64_t t, int head, int heads, int kv_heads, int half) {
  return head < heads              ? q + (t * heads + head) * 2 * half
         : head < heads + kv_heads ? k + (t * kv_heads + head - heads) * 2 * half
                                   : v + (t * kv_heads + head - heads - kv_heads) * 2 * half;
}

template <typename T, int N>
__global__ void BackwardPack(const T* dq, const T* dk, const T* dv, const float* cos, const float* sin,
                             const int64_t* positions, int heads, int kv_heads, int half, T* dqkv) {
  const int64_t t = blockIdx.x, position = positions[t] * half;
  dqkv += t * (heads + 2 * kv_heads) * 2 * half;
  for (int item = threadIdx.x; item < (heads + 2 * kv_heads) * half / N; item += blockDim.x) {
    const int head = item / (half / N), i = item % (half / N) * N;
    const T* from = HeadOf(dq, dk, dv, t, head, heads, kv_heads, half) + i;
    float a[N], b[N];
    Load(from, a);
    Load(from + half, b);
    if (head < heads + kv_heads) Turn(a, b, cos + position + i, sin + position + i, -1.0f);
    Store(dqkv + head * 2 * half + i, a);
    Store(dqkv + head * 2 * half + half + i, b);
  }
}

int Threads(int64_t items) { return static_cast<int>(items < 256 ? (items + 31) / 32 * 32 : 256); }

}  // namespace

void RopeInPlace(Type type, void* qkv_TE, int64_t row_stride, const float* cos_PH, const float* sin_PH,
                 const int64_t* positions_T, int64_t tokens, RopeShape shape, bool inverse, Stream stream) {
  const int half = static_cast<int>(shape.head_dim / 2), heads = static_cast<int>(shape.heads + shape.kv_heads);
  // Both halves of every row have to lie on the wide accesses' boundaries.
  Dispatch(type, row_stride % kWide<__nv_bfloat16> == 0 ? half : 1, [&]<typename T, int N>() {
    InPlace<T, N><<<tokens, Threads(heads * half / N), 0, stream>>>(static_cast<T*>(qkv_TE), row_stride, cos_PH, sin_PH,
                                                                    positions_T, heads, half, inverse ? -1.0f : 1.0f);
  });
}

void RopeBackwardPack(Type type, const void* dq, const void* dk, const void* dv, const float* cos_PH,
                      const float* sin_PH, const int64_t* positions_T, int64_t tokens, RopeShape shape, void* dqkv_TE,
                      Stream stream) {
  const int half = static_cast<int>(shape.head_dim / 2);
  const int heads = static_cast<int>(shape.heads), kv_heads = static_cast<int>(shape.kv_heads);
  Dispatch(type, half, [&]<typename T, int N>() {
    BackwardPack<T, N><<<tokens, Threads((heads + 2 * kv_heads) * half / N), 0, stream>>>(
        static_cast<const T*>(dq), static_cast<const T*>(dk), static_cast<const T*>(dv), cos_PH, sin_PH, positions_T,
        heads, kv_heads, half, static_cast<T*>(dqkv_TE));
  });
}

}  // namespace attune::cuda
