#include "server/model/kernels/embedding_noise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <vector>

#include "server/model/kernels/cuda/launch.h"
#include "server/model/kernels/cuda/mixed_bits.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/element.h"

namespace attune {
namespace {

using at::Tensor;

// Of each row.
std::vector<float> Magnitudes(const Tensor& ids_T, const Tensor& starts_int32, int64_t virtual_tokens, double alpha,
                              int64_t columns) {
  const Tensor ids = ids_T.cpu(), starts = starts_int32.cpu();
  const int32_t* bounds = starts.const_data_ptr<int32_t>();
  std::vector<float> magnitudes(ids.numel(), 0);
  for (int64_t s = 0; s + 1 < starts.numel(); ++s) {
    const float magnitude = NoiseMagnitude(alpha, bounds[s + 1] - bounds[s] - virtual_tokens, columns);
    for (int32_t t = bounds[s]; t < bounds[s + 1]; ++t) {
      if (ids.const_data_ptr<int64_t>()[t] >= 0) magnitudes[t] = magnitude;
    }
  }
  return magnitudes;
}

}  // namespace

void AddEmbeddingNoise(const Tensor& x_TD, const Tensor& ids_T, const Tensor& starts_int32, int64_t virtual_tokens,
                       double alpha, const StepSeed& seed) {
  const int64_t rows = x_TD.size(0), columns = x_TD.size(1);
  if (UsesCudaKernels(x_TD)) {
    cuda::EmbeddingNoise(CudaTypeOf(x_TD), x_TD.mutable_data_ptr(), ids_T.const_data_ptr<int64_t>(),
                         starts_int32.const_data_ptr<int32_t>(), starts_int32.numel() - 1, virtual_tokens, alpha,
                         seed.on_device.defined() ? seed.on_device.const_data_ptr<int64_t>() : nullptr, seed.value,
                         rows, columns, CurrentCudaStream());
    return;
  }
  const std::vector<float> magnitudes = Magnitudes(ids_T, starts_int32, virtual_tokens, alpha, columns);
  const int64_t value = seed.on_device.defined() ? seed.on_device.item<int64_t>() : seed.value;
  const uint32_t stream = DropoutSeed(value, kNoiseStream);
  Tensor noise = at::empty({rows, columns}, at::kFloat);
  float* out = noise.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t j = 0; j < columns; ++j) {
        out[t * columns + j] = UniformNoise(static_cast<uint32_t>(t * columns + j), stream) * magnitudes[t];
      }
    }
  });
  Tensor(x_TD).copy_(x_TD.to(at::kFloat) + noise.to(x_TD.device()));
}

}  // namespace attune
