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

__global__ void Update(const AdamWSettings s, const float* norm_pointer, float* parameters, float* gradients,
                       float* first, float* second, int64_t count) {
  const float norm = *norm_pointer;
  const bool sound = isfinite(norm);
  const float clip = s.max_norm > 0 && norm > s.max_norm ? s.max_norm / (norm + 1e-6f) : 1.0f;
  const float step = s.learning_rate / s.correction1, root = rsqrtf(s.correction2);
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    if (sound) {
      const float g = gradients[i] * clip;
      const float m = first[i] + (1 - s.beta1) * (g - first[i]);
      const float v = s.beta2 * second[i] + (1 - s.beta2) * g * g;
      const float p = parameters[i] * (1 - s.learning_rate * s.weight_decay) - step * m / (sqrtf(v) * root + s.epsilon);
      first[i] = m;
      second[i] = v;
      parameters[i] = p;
    }
    gradients[i] = 0;
  }
}

}  // namespace

void GradientNorm(const float* gradients, int64_t count, double* partials, float* norm, Stream stream) {
  static_assert(kNormPartials == 1024, "Root is one block");
  Squares<<<kNormPartials, kThreads, 0, stream>>>(gradients, count, partials);
  Root<<<1, kNormPartials, 0, stream>>>(partials, norm);
  CheckLaunch();
}

void AdamW(const AdamWSettings& settings, const float* norm, float* parameters, float* gradients, float* first,
           float* second, int64_t count, Stream stream) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  Update<<<blocks < 4096 ? blocks : 4096, kThreads, 0, stream>>>(settings, norm, parameters, gradients, first, second,
                                                                count);
  CheckLaunch();
}

}  // namespace attune::cuda
