#include <cfloat>

#include "server/model/kernels/cuda/common.cuh"
#include "server/model/kernels/cuda/rank.cuh"

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

// v += the values from there on.
template <typename T, int N>
__device__ inline void Add(const T* from, float (&v)[N]) {
  float d[N];
  Load(from, d);
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] += d[j];
}

// Where a row's scales are. Its loads are on their way with those of the row's values if it is made before they are used.
class ScalesOfRow {
 public:
  __device__ ScalesOfRow(const RowScales& scales, int64_t row)
      : scales_(scales), slot_(scales.entries ? __ldg(scales.slots_T + row) : -1) {}
  template <typename T>
  __device__ const T* Of(int entry) const {
    if (slot_ < 0) return nullptr;
    const auto* pointers = reinterpret_cast<const unsigned long long*>(scales_.entries);
    return reinterpret_cast<const T*>(__ldg(pointers + slot_ * scales_.stride + entry));
  }
  // Whether the addend's bias is added after scaling.
  __device__ bool BiasComesLast(const Addend& addend) const { return addend.bias && Of<void>(kBiasComesLast); }

 private:
  const RowScales& scales_;
  const int32_t slot_;
};

// v *= the scales from column `i` on; nothing if there are none.
template <typename T, int N>
__device__ inline void Scale(const T* scales, int64_t i, float (&v)[N]) {
  if (!scales) return;
  float s[N];
  Load(scales + i, s);
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] *= s[j];
}

// Where some values of a matrix are: in which row, at which place that begins, and from which of its columns on.
struct Place {
  int64_t row, start, column;
};

// v becomes what is used: with what the addend has for it, times the scales from column `i` on.
template <typename T, int N>
__device__ inline void AddAndScale(const Addend& addend, bool bias_comes_last, Place place, const T* scales, int64_t i,
                                   float (&v)[N]) {
  const T* bias = static_cast<const T*>(addend.bias);
  if (bias && !bias_comes_last) Add(bias + place.column, v);
  if (place.row < addend.rows) Add(static_cast<const T*>(addend.values) + place.start + place.column, v);
  Scale(scales, i, v);
  if (bias_comes_last) Add(bias + place.column, v);
}

// Entries of RowScales.
constexpr int kScaleQ = 0, kScaleK = 1, kScaleV = 2, kScaleGate = 4, kScaleUp = 5;

// A thread has the same few dimensions in both halves of a head: queries' first, then keys', then values'.
template <typename T, int N>
__global__ void RopeCache(T* qkv, Addend addend, RowScales scales, const float* cos, const float* sin,
                          const int32_t* positions, const int32_t* slots, T* keys, T* values, int heads, int kv_heads,
                          int half) {
  LetNextBegin();
  WaitForBefore();
  const int64_t t = blockIdx.x, slot = slots[t];
  const ScalesOfRow row_scales(scales, t);
  if (slot < 0) return;
  const bool bias_comes_last = row_scales.BiasComesLast(addend);
  const int64_t position = static_cast<int64_t>(positions[t]) * half;
  const int64_t row = t * (heads + 2 * kv_heads) * 2 * half;
  keys += slot * kv_heads * 2 * half;
  values += slot * kv_heads * 2 * half;
  for (int item = threadIdx.x; item < (heads + 2 * kv_heads) * half / N; item += blockDim.x) {
    const int head = item / (half / N), i = item % (half / N) * N;
    const int64_t at = row + head * 2 * half + i;
    const int entry = head < heads ? kScaleQ : head < heads + kv_heads ? kScaleK : kScaleV;
    const int first_head = entry == kScaleQ ? 0 : entry == kScaleK ? heads : heads + kv_heads;
    float a[N], b[N], c[N], s[N];
    Load(qkv + at, a);
    Load(qkv + at + half, b);
    const T* own = row_scales.Of<T>(entry);
    const int own_column = (head - first_head) * 2 * half + i;
    AddAndScale(addend, bias_comes_last, {t, row, at - row}, own, own_column, a);
    AddAndScale(addend, bias_comes_last, {t, row, at - row + half}, own, own_column + half, b);
    T* to = qkv + at;
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

// A warp a head, a lane up to N dimensions of it.
template <typename T, int N>
__global__ void PrepareHead(T* qkv, Addend addend, RowScales scales, const T* q_norm, const T* k_norm, float epsilon, int heads,
                            int kv_heads, int dimensions) {
  LetNextBegin();
  WaitForBefore();
  const int head = static_cast<int>(blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32), i = threadIdx.x % 32 * N;
  if (head >= heads + 2 * kv_heads) return;
  const int entry = head < heads ? kScaleQ : head < heads + kv_heads ? kScaleK : kScaleV;
  const int first_head = entry == kScaleQ ? 0 : entry == kScaleK ? heads : heads + kv_heads;
  const T* norm = entry == kScaleQ ? q_norm : entry == kScaleK ? k_norm : nullptr;
  const int64_t row = blockIdx.x * static_cast<int64_t>(heads + 2 * kv_heads) * dimensions;
  const int64_t column = static_cast<int64_t>(head) * dimensions + i;
  const bool inside = i < dimensions;
  float v[N] = {}, squares = 0;
  if (inside) {
    const ScalesOfRow row_scales(scales, blockIdx.x);
    Load(qkv + row + column, v);
    const T* own = row_scales.Of<T>(entry);
    AddAndScale(addend, row_scales.BiasComesLast(addend), {blockIdx.x, row, column}, own, (head - first_head) * dimensions + i,
                v);
  }
  if (norm) {
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v[j] * v[j];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
    const float r = rsqrtf(squares / dimensions + epsilon);
    float g[N] = {};
    if (inside) Load(norm + i, g);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] *= r * g[j];
  }
  if (inside) Store(qkv + row + column, v);
}

// A row's threads hold it at once.
template <typename T, int N>
__global__ void AddNorm(T* x, const T* delta, Addend addend, RowScales scales, int scaled, const T* w, float epsilon, T* y,
                        int columns) {
  LetNextBegin();
  WaitForBefore();
  __shared__ float shared[33];
  const int i = threadIdx.x * N;
  const int64_t at = blockIdx.x * static_cast<int64_t>(columns) + i;
  const bool inside = i < columns;
  float v[N] = {}, g[N] = {}, squares = 0;
  if (inside) {
    const ScalesOfRow row_scales(scales, blockIdx.x);
    Load(x + at, v);
    Load(w + i, g);
    if (delta) {
      float d[N];
      Load(delta + at, d);
      const T* own = row_scales.Of<T>(scaled);
      AddAndScale(addend, row_scales.BiasComesLast(addend), {blockIdx.x, at - i, i}, own, i, d);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = ToFloat(FromFloat<T>(v[j] + d[j]));
      Store(x + at, v);
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) squares += v[j] * v[j];
  const float r = rsqrtf(BlockReduce(squares, 0.0f, shared, Sum()) / columns + epsilon);
  if (!inside) return;
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] *= r * g[j];
  Store(y + at, v);
}

template <typename T, int N>
__global__ void Gate(const T* gate_up, Addend addend, RowScales scales, T* out, int inner) {
  LetNextBegin();
  WaitForBefore();
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (i >= inner) return;
  const int64_t row = blockIdx.x * static_cast<int64_t>(2 * inner), at = row + i;
  const ScalesOfRow row_scales(scales, blockIdx.x);
  float g[N], u[N];
  Load(gate_up + at, g);
  Load(gate_up + at + inner, u);
  const T *of_gate = row_scales.Of<T>(kScaleGate), *of_up = row_scales.Of<T>(kScaleUp), *of_inner = row_scales.Of<T>(kInnerScale);
  const bool bias_comes_last = row_scales.BiasComesLast(addend);
  AddAndScale(addend, bias_comes_last, {blockIdx.x, row, i}, of_gate, i, g);
  AddAndScale(addend, bias_comes_last, {blockIdx.x, row, i + inner}, of_up, i, u);
#pragma unroll
  for (int j = 0; j < N; ++j) u[j] *= g[j] / (1.0f + __expf(-g[j]));
  Scale(of_inner, i, u);
  Store(out + blockIdx.x * static_cast<int64_t>(inner) + i, u);
}

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
  if (threadIdx.x == 0) sampled[blockIdx.x] = TokenOfRank(best);
}

struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// A block a row.
template <typename T, int N>
__global__ void ScoreRow(const ScoredRow* rows, const T* logits, int64_t first_row, int vocabulary, float* logprobs) {
  __shared__ float shared[33];
  const ScoredRow asked = rows[blockIdx.x];
  const T* row = logits + (asked.row - first_row) * vocabulary;
  float most = -FLT_MAX;
  for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
    float v[N];
    Load(row + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) most = fmaxf(most, v[j]);
  }
  most = BlockReduce(most, -FLT_MAX, shared, Largest());
  float sum = 0;
  for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
    float v[N];
    Load(row + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += __expf(v[j] - most);
  }
  sum = BlockReduce(sum, 0.0f, shared, Sum());
  if (threadIdx.x == 0) logprobs[blockIdx.x] = ToFloat(row[asked.token]) - most - logf(sum);
}

}  // namespace

void EmbedTokens(const void* embedding_VD, const int32_t* tokens_T, const int32_t* sampled, void* x_TD, int64_t rows,
                 int64_t columns, Stream stream) {
  Dispatch(Type::kBfloat16, columns, [&]<typename T, int N>() {
    Embed<T, N><<<rows, RowThreads(columns, N), 0, stream>>>(static_cast<const T*>(embedding_VD), tokens_T, sampled,
                                                            static_cast<T*>(x_TD), static_cast<int>(columns));
  });
}

void RopeAndCache(void* qkv_TE, Addend addend, RowScales scales, const float* cos_PH, const float* sin_PH,
                  const int32_t* positions_T, const int32_t* slots_T, void* keys, void* values, int64_t tokens,
                  RopeShape shape, Stream stream, Start start) {
  const int half = static_cast<int>(shape.head_dim / 2);
  const int heads = static_cast<int>(shape.heads), kv_heads = static_cast<int>(shape.kv_heads);
  Dispatch(Type::kBfloat16, half, [&]<typename T, int N>() {
    LaunchAt(start, RopeCache<T, N>, dim3(static_cast<unsigned>(tokens)), RowThreads((heads + 2 * kv_heads) * half, N), 0, stream,
        static_cast<T*>(qkv_TE), addend, scales, cos_PH, sin_PH, positions_T,
        slots_T, static_cast<T*>(keys), static_cast<T*>(values), heads, kv_heads, half);
  });
}

bool PrepareHeadsTakes(RopeShape shape) { return shape.head_dim % kWide<Bf16> == 0 && shape.head_dim <= 32 * kWide<Bf16>; }

void PrepareHeads(void* qkv_TE, Addend addend, RowScales scales, const void* q_norm_A, const void* k_norm_A, double epsilon,
                  int64_t tokens, RopeShape shape, Stream stream, Start start) {
  constexpr int kWarps = 4, kEach = kWide<Bf16>;
  const int heads = static_cast<int>(shape.heads), kv_heads = static_cast<int>(shape.kv_heads);
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>((heads + 2 * kv_heads + kWarps - 1) / kWarps));
  LaunchAt(start, PrepareHead<Bf16, kEach>, grid, kWarps * 32, 0, stream, static_cast<Bf16*>(qkv_TE), addend, scales,
           static_cast<const Bf16*>(q_norm_A), static_cast<const Bf16*>(k_norm_A), static_cast<float>(epsilon), heads,
           kv_heads, static_cast<int>(shape.head_dim));
  CheckLaunch();
}

bool AddAndNormTakes(int64_t columns) { return columns % kWide<Bf16> == 0 && columns <= 1024 * kWide<Bf16>; }

void AddAndNorm(void* x_TD, const void* delta_TD, Addend addend, RowScales scales, int scaled, const void* w_D,
                double epsilon, void* y_TD, int64_t rows, int64_t columns, Stream stream, Start start) {
  Dispatch(Type::kBfloat16, columns, [&]<typename T, int N>() {
    LaunchAt(start, AddNorm<T, N>, dim3(static_cast<unsigned>(rows)), RowThreads(columns, N), 0, stream,
        static_cast<T*>(x_TD), static_cast<const T*>(delta_TD), addend, scales,
        scaled, static_cast<const T*>(w_D), static_cast<float>(epsilon), static_cast<T*>(y_TD), static_cast<int>(columns));
  });
}

void SwiGluAdded(const void* gate_up_T2I, Addend addend, RowScales scales, void* out_TI, int64_t rows, int64_t inner,
                 Stream stream, Start start) {
  Dispatch(Type::kBfloat16, inner, [&]<typename T, int N>() {
    constexpr int kThreads = 128;
    const unsigned blocks = static_cast<unsigned>((inner / N + kThreads - 1) / kThreads);
    LaunchAt(start, Gate<T, N>, dim3(static_cast<unsigned>(rows), blocks), kThreads, 0, stream,
             static_cast<const T*>(gate_up_T2I), addend, scales,
             static_cast<T*>(out_TI), static_cast<int>(inner));
  });
}

void Argmax(const void* logits_NV, int32_t* sampled, int64_t rows, int64_t vocabulary, Stream stream) {
  Dispatch(Type::kBfloat16, vocabulary, [&]<typename T, int N>() {
    ArgmaxRow<T, N><<<rows, RowThreads(vocabulary, N), 0, stream>>>(static_cast<const T*>(logits_NV), sampled,
                                                                   static_cast<int>(vocabulary));
  });
}

void ScoreRows(const ScoredRow* rows, int64_t count, const void* logits_NV, int64_t first_row, int64_t vocabulary,
               float* logprobs, Stream stream) {
  Dispatch(Type::kBfloat16, vocabulary, [&]<typename T, int N>() {
    ScoreRow<T, N><<<count, RowThreads(vocabulary, N), 0, stream>>>(rows, static_cast<const T*>(logits_NV), first_row,
                                                                   static_cast<int>(vocabulary), logprobs);
  });
}

}  // namespace attune::cuda
