#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void Squares(const float* x, int64_t count, double* partials) {
  __shared__ double shared[33];
  double sum = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += kNormPartials * kThreads) {
    sum += static_cast<double>(x[i]) * x[i];
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

// The index of the table's nearest value.
__device__ inline uint8_t Nearest(const float* table, float x) {
  int low = 0, high = 255;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table[middle] <= x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return static_cast<uint8_t>(x - table[low] <= table[high] - x ? low : high);
}

// A block of threads for a block of moments.
__global__ void Update8Bit(const AdamWSettings s, const float* norm_pointer, const float* first_table,
                           const float* second_table, float* parameters, __nv_bfloat16* copy,
                           const float* gradients, uint8_t* first, float* first_scales, uint8_t* second,
                           float* second_scales, int64_t count) {
  __shared__ float tables[2][256], shared[33];
  tables[0][threadIdx.x] = first_table[threadIdx.x];
  tables[1][threadIdx.x] = second_table[threadIdx.x];
  __syncthreads();
  const float norm = *norm_pointer;
  if (!isfinite(norm)) return;  // all threads alike
  const int64_t i = blockIdx.x * static_cast<int64_t>(kMomentBlock) + threadIdx.x;
  const bool inside = i < count;
  const Step step(s, norm);
  float m = 0, v = 0;
  if (inside) {
    m = tables[0][first[i]] * first_scales[blockIdx.x];
    v = tables[1][second[i]] * second_scales[blockIdx.x];
    const float p = Updated(s, step, parameters[i], gradients[i], &m, &v);
    parameters[i] = p;
    if (copy) copy[i] = FromFloat<__nv_bfloat16>(p);
  }
  auto larger = [](float a, float b) { return fmaxf(a, b); };
  const float m_scale = BlockReduce(fabsf(m), 0.0f, shared, larger), v_scale = BlockReduce(v, 0.0f, shared, larger);
  if (inside) {
    first[i] = Nearest(tables[0], m_scale > 0 ? m / m_scale : 0.0f);
    second[i] = Nearest(tables[1], v_scale > 0 ? v / v_scale : 0.0f);
  }
  if (threadIdx.x == 0) {
    first_scales[blockIdx.x] = m_scale;
    second_scales[blockIdx.x] = v_scale;
  }
}

}  // namespace

void GradientNorm(const float* gradients, int64_t count, double* partials, float* norm, Stream stream) {
  static_assert(kNormPartials == 1024, "Root is one block");
  Squares<<<kNormPartials, kThreads, 0, stream>>>(gradients, count, partials);
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
  // A part of the parameters may begin anywhere.
  auto is_aligned = [](const void* at, size_t bytes) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; };
  const bool takes_four = count % 4 == 0 && is_aligned(parameters, 16) && is_aligned(gradients, 16) &&
                          is_aligned(first, 16) && is_aligned(second, 16) && is_aligned(copy, 8);
  takes_four ? launch.operator()<4>() : launch.operator()<1>();
  CheckLaunch();
}

void AdamW8Bit(const AdamWSettings& settings, const float* norm, const float* first_table, const float* second_table,
               float* parameters, void* copy, const float* gradients, uint8_t* first, float* first_scales,
               uint8_t* second, float* second_scales, int64_t count, Stream stream) {
  const unsigned blocks = static_cast<unsigned>((count + kMomentBlock - 1) / kMomentBlock);
  Update8Bit<<<blocks, kMomentBlock, 0, stream>>>(settings, norm, first_table, second_table, parameters,
                                                 static_cast<__nv_bfloat16*>(copy), gradients, first, first_scales,
                                                 second, second_scales, count);
  CheckLaunch();
}

}  // namespace attune::cuda
