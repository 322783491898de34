#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

// N values a thread at a time: 1 or 4. `count` is a multiple of N.
template <int N>
__global__ void Squares(const float* x, int64_t count, double* partials) {
  __shared__ double shared[33];
  double sum = 0;
#pragma unroll 4
  for (int64_t i = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * N; i < count;
       i += static_cast<int64_t>(kNormPartials) * kThreads * N) {
    float values[N];
    Load(x + i, values);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += static_cast<double>(values[j]) * values[j];
  }
  sum = BlockReduce(sum, 0.0, shared, Sum());
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void Root(const double* partials, float* norm) {
  __shared__ double shared[33];
  const double sum = BlockReduce(partials[threadIdx.x], 0.0, shared, Sum());
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

// A step's numbers that all parameters share.
struct Step {
  float clip, rate, root;
  __device__ Step(const AdamWSettings& s, float norm)
      : clip(s.max_norm > 0 && norm > s.max_norm ? s.max_norm / (norm + 1e-6f) : 1.0f),
        rate(s.learning_rate / s.correction1),
        root(rsqrtf(s.correction2)) {}
};

// One parameter's update; m and v become the new moments.
__device__ inline float Updated(const AdamWSettings& s, const Step& step, float p, float gradient, float* m, float* v) {
  const float g = gradient * step.clip;
  *m += (1 - s.beta1) * (g - *m);
  *v = s.beta2 * *v + (1 - s.beta2) * g * g;
  return p * (1 - s.learning_rate * s.weight_decay) - step.rate * *m / (sqrtf(*v) * step.root + s.epsilon);
}

// N parameters a thread at a time: 1 or 4.
template <int N>
__global__ void Update(const AdamWSettings s, const float* norm_pointer, float* parameters, __nv_bfloat16* copy,
                       const float* gradients, float* first, float* second, int64_t count) {
  const float norm = *norm_pointer;
  if (!isfinite(norm)) return;
  const Step step(s, norm);
  for (int64_t i = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * N; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads * N) {
    float p[N], g[N], m[N], v[N];
    Load(parameters + i, p);
    Load(gradients + i, g);
    Load(first + i, m);
    Load(second + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) p[j] = Updated(s, step, p[j], g[j], m + j, v + j);
    Store(parameters + i, p);
    Store(first + i, m);
    Store(second + i, v);
    if (copy) Store(copy + i, p);
  }
}

// A moment's table of values as a block of threads holds it: DynamicMap's 256 (server/tuning/moments.h).
struct Codes {
  float values[256], middles[255];

  __device__ void Take(const float* table) {
    values[threadIdx.x] = table[threadIdx.x];
    if (threadIdx.x < 255) middles[threadIdx.x] = (table[threadIdx.x] + table[threadIdx.x + 1]) / 2;
  }

  // The nearest value's index, of two equally near the lower. Where a value lies follows from the map's
  // making: decade d, from 10^(d-7) to 10^(d-6), has 2^d values of each sign, or 2^(d+1) where none has a sign.
  template <bool kBothSigns>
  __device__ int Nearest(float x) const {
    const float size = fabsf(x);
    const int decade = min(6, max(0, static_cast<int>(floorf(log10f(size))) + 7));
    const int values_of_decade = (kBothSigns ? 1 : 2) << decade;
    const float place = (size * exp10f(static_cast<float>(6 - decade)) - 0.1f) * (values_of_decade / 0.9f);
    const int rank = values_of_decade - (kBothSigns ? 1 : 2) + min(values_of_decade - 1, max(0, static_cast<int>(place)));
    int code = !kBothSigns ? 1 + rank : x < 0 ? 126 - rank : 128 + rank;
    // At the ends of decades, and of what was rounded, it is a neighbour.
    while (code > 0 && x <= middles[code - 1]) --code;
    while (code < 255 && x > middles[code]) ++code;
    return code;
  }
};

// What a thread has of a block of moments: neighbours.
constexpr int kMine = kMomentBlock / 32;
static_assert(kMine == 8, "read as two vectors of four");

template <typename T>
__device__ inline void LoadMine(const T* from, int count, float (&to)[kMine]) {
  if (count == kMine) {
    Load(from, *reinterpret_cast<float(*)[4]>(to));
    Load(from + 4, *reinterpret_cast<float(*)[4]>(to + 4));
    return;
  }
#pragma unroll
  for (int j = 0; j < kMine; ++j) to[j] = j < count ? ToFloat(from[j]) : 0.0f;
}

template <typename T>
__device__ inline void StoreMine(T* to, int count, const float (&from)[kMine]) {
  if (count == kMine) {
    Store(to, *reinterpret_cast<const float(*)[4]>(from));
    Store(to + 4, *reinterpret_cast<const float(*)[4]>(from + 4));
    return;
  }
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    if (j < count) to[j] = FromFloat<T>(from[j]);
  }
}

// The moments of a thread, of 8 codes in memory at most.
struct MyCodes {
  alignas(kMine) uint8_t at[kMine];

  __device__ void Load(const uint8_t* from, int count) {
    if (count == kMine) {
      *reinterpret_cast<uint2*>(at) = *reinterpret_cast<const uint2*>(from);
      return;
    }
#pragma unroll
    for (int j = 0; j < kMine; ++j) at[j] = j < count ? from[j] : 0;
  }
  __device__ void Store(uint8_t* to, int count) const {
    if (count == kMine) {
      *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(at);
      return;
    }
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (j < count) to[j] = at[j];
    }
  }
};

// The least normal number.
constexpr float kLeastScale = 1.17549435e-38f;

// A warp's moments of one block back to codes and a scale.
template <bool kBothSigns>
__device__ inline void PackMoments(const Codes& codes, const float (&values)[kMine], int count, uint8_t* to, float* scale) {
  float top = 0;
#pragma unroll
  for (int j = 0; j < kMine; ++j) top = fmaxf(top, j < count ? fabsf(values[j]) : 0.0f);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
  // Below, its inverse would be no number: as good as nothing.
  if (top < kLeastScale) top = 0;
  const float inverse = top > 0 ? 1 / top : 0.0f;
  MyCodes mine;
#pragma unroll
  for (int j = 0; j < kMine; ++j) mine.at[j] = static_cast<uint8_t>(codes.Nearest<kBothSigns>(values[j] * inverse));
  mine.Store(to, count);
  if (threadIdx.x % 32 == 0) *scale = top;
}

// A warp for a block of moments, `blocks` of them in all.
__global__ void Update8Bit(const AdamWSettings s, const float* norm_pointer, const float* first_table,
                           const float* second_table, float* parameters, __nv_bfloat16* copy,
                           const float* gradients, uint8_t* first, float* first_scales, uint8_t* second,
                           float* second_scales, int64_t count, int64_t blocks) {
  __shared__ Codes first_codes, second_codes;
  first_codes.Take(first_table);
  second_codes.Take(second_table);
  __syncthreads();
  const float norm = *norm_pointer;
  if (!isfinite(norm)) return;
  const Step step(s, norm);
  constexpr int kWarps = kThreads / 32;
  for (int64_t block = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32; block < blocks;
       block += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t i = block * kMomentBlock + threadIdx.x % 32 * kMine;
    const int mine = static_cast<int>(min(static_cast<int64_t>(kMine), max(int64_t{0}, count - i)));
    float p[kMine], g[kMine], m[kMine], v[kMine];
    MyCodes first_mine, second_mine;
    LoadMine(parameters + i, mine, p);
    LoadMine(gradients + i, mine, g);
    first_mine.Load(first + i, mine);
    second_mine.Load(second + i, mine);
    const float first_scale = first_scales[block], second_scale = second_scales[block];
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      m[j] = first_codes.values[first_mine.at[j]] * first_scale;
      v[j] = second_codes.values[second_mine.at[j]] * second_scale;
      p[j] = Updated(s, step, p[j], g[j], m + j, v + j);
    }
    StoreMine(parameters + i, mine, p);
    if (copy) StoreMine(copy + i, mine, p);
    PackMoments<true>(first_codes, m, mine, first + i, first_scales + block);
    PackMoments<false>(second_codes, v, mine, second + i, second_scales + block);
  }
}

// A part of the parameters may begin anywhere.
bool IsAligned(const void* at, size_t bytes) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; }

}  // namespace

void GradientNorm(const float* gradients, int64_t count, double* partials, float* norm, Stream stream) {
  static_assert(kNormPartials == 1024, "Root is one block");
  if (count % 4 == 0 && IsAligned(gradients, 16)) {
    Squares<4><<<kNormPartials, kThreads, 0, stream>>>(gradients, count, partials);
  } else {
    Squares<1><<<kNormPartials, kThreads, 0, stream>>>(gradients, count, partials);
  }
  Root<<<1, kNormPartials, 0, stream>>>(partials, norm);
  CheckLaunch();
}

void AdamW(const AdamWSettings& settings, const float* norm, float* parameters, void* copy, const float* gradients,
           float* first, float* second, int64_t count, Stream stream) {
  auto launch = [&]<int N>() {
    const int64_t blocks = (count / N + kThreads - 1) / kThreads;
    Update<N><<<blocks < 4096 ? blocks : 4096, kThreads, 0, stream>>>(
        settings, norm, parameters, static_cast<__nv_bfloat16*>(copy), gradients, first, second, count);
  };
  const bool takes_four = count % 4 == 0 && IsAligned(parameters, 16) && IsAligned(gradients, 16) &&
                          IsAligned(first, 16) && IsAligned(second, 16) && IsAligned(copy, 8);
  takes_four ? launch.operator()<4>() : launch.operator()<1>();
  CheckLaunch();
}

void AdamW8Bit(const AdamWSettings& settings, const float* norm, const float* first_table, const float* second_table,
               float* parameters, void* copy, const float* gradients, uint8_t* first, float* first_scales,
               uint8_t* second, float* second_scales, int64_t count, Stream stream) {
  const int64_t blocks = (count + kMomentBlock - 1) / kMomentBlock, warps = kThreads / 32;
  const int64_t grid = (blocks + warps - 1) / warps;
  Update8Bit<<<grid < 4096 ? grid : 4096, kThreads, 0, stream>>>(settings, norm, first_table, second_table, parameters,
                                                                static_cast<__nv_bfloat16*>(copy), gradients, first,
                                                                first_scales, second, second_scales, count, blocks);
  CheckLaunch();
}

}  // namespace attune::cuda
