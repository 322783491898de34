#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

using Bf16 = __nv_bfloat16;

template <typename T, int N>
__global__ void Embed(const T* embedding, const int32_t* tokens, const int32_t* sampled, T* x, int columns) {
  const int token = tokens[blockIdx.x];
  const int64_t from = (token >= 0 ? token : sampled[-1 - token]) * static_cast<int64_t>(columns);
  const int64_t to = blockIdx.x * static_cast<int64_t>(columns);
  for (int i = threadIdx.x * N; i < columns; i += blockDim.x * N) {
    *reinterpret_cast<Pack<T, N>*>(x + to + i) = *reinterpret_cast<const Pack<T, N>*>(embedding + from + i);
  }
}

// A thread has the same few dimensions in both halves of a head: queries' first, then keys', then values'.
template <typename T, int N>
__global__ void RopeCache(T* qkv, int64_t row_stride, const float* cos, const float* sin, const int32_t* positions,
                          const int32_t* slots, T* keys, T* values, int heads, int kv_heads, int half) {
  const int64_t t = blockIdx.x, slot = slots[t];
  if (slot < 0) return;
  const int64_t position = static_cast<int64_t>(positions[t]) * half;
  qkv += t * row_stride;
  keys += slot * kv_heads * 2 * half;
  values += slot * kv_heads * 2 * half;
  for (int item = threadIdx.x; item < (heads + 2 * kv_heads) * half / N; item += blockDim.x) {
    const int head = item / (half / N), i = item % (half / N) * N;
    T* x = qkv + head * 2 * half + i;
    float a[N], b[N], c[N], s[N];
    Load(x, a);
    Load(x + half, b);
    T* to = x;
    if (head >= heads + kv_heads) {
      to = values + (head - heads - kv_heads) * 2 * half + i;
    } else {
      Load(cos + position + i, c);
      Load(sin + position + i, s);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float first = a[j], second = b[j];
        a[j] = first * c[j] - second * s[j];
        b[j] = second * c[j] + first * s[j];
      }
      if (head >= heads) to = keys + (head - heads) * 2 * half + i;
    }
    Store(to, a);
    Store(to + half, b);
  }
}

// Larger for larger values, and for lower tokens among equals.
__device__ inline unsigned long long Rank(float value, int token) {
  const unsigned bits = __float_as_uint(value);
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(token));
}

struct Max {
  __device__ unsigned long long operator()(unsigned long long a, unsigned long long b) const { return a > b ? a : b; }
};

template <typename T, int N>
__global__ void ArgmaxRow(const T* logits, int32_t* sampled, int vocabulary) {
  __shared__ unsigned long long shared[33];
  const T* row = logits + blockIdx.x * static_cast<int64_t>(vocabulary);
  unsigned long long best = 0;
  for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
    float v[N];
    Load(row + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) best = Max()(best, Rank(v[j], i + j));
  }
  best = BlockReduce(best, 0ull, shared, Max());
  if (threadIdx.x == 0) sampled[blockIdx.x] = static_cast<int32_t>(0xffffffffu - static_cast<unsigned>(best));
}

}  // namespace

void EmbedTokens(const void* embedding_VD, const int32_t* tokens_T, const int32_t* sampled, void* x_TD, int64_t rows,
                 int64_t columns, Stream stream) {
  Dispatch(Type::kBfloat16, columns, [&]<typename T, int N>() {
    Embed<T, N><<<rows, RowThreads(columns, N), 0, stream>>>(static_cast<const T*>(embedding_VD), tokens_T, sampled,
                                                            static_cast<T*>(x_TD), static_cast<int>(columns));
  });
}

void RopeAndCache(void* qkv_TE, int64_t row_stride, const float* cos_PH, const float* sin_PH,
                  const int32_t* positions_T, const int32_t* slots_T, void* keys, void* values, int64_t tokens,
                  RopeShape shape, Stream stream) {
  const int half = static_cast<int>(shape.head_dim / 2);
  const int heads = static_cast<int>(shape.heads), kv_heads = static_cast<int>(shape.kv_heads);
  Dispatch(Type::kBfloat16, half, [&]<typename T, int N>() {
    RopeCache<T, N><<<tokens, RowThreads((heads + 2 * kv_heads) * half, N), 0, stream>>>(
        static_cast<T*>(qkv_TE), row_stride, cos_PH, sin_PH, positions_T, slots_T, static_cast<T*>(keys),
        static_cast<T*>(values), heads, kv_heads, half);
  });
}

void Argmax(const void* logits_NV, int32_t* sampled, int64_t rows, int64_t vocabulary, Stream stream) {
  Dispatch(Type::kBfloat16, vocabulary, [&]<typename T, int N>() {
    ArgmaxRow<T, N><<<rows, RowThreads(vocabulary, N), 0, stream>>>(static_cast<const T*>(logits_NV), sampled,
                                                                   static_cast<int>(vocabulary));
  });
}

}  // namespace attune::cuda
