#include "server/model/kernels/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/element.h"

namespace attune {
namespace {

using at::Tensor;
using cuda::kMomentBlock;

// A step's numbers that all parameters share.
struct StepFactors {
  StepFactors(const cuda::AdamWSettings& s, float norm)
      : clip(s.max_norm > 0 && norm > s.max_norm ? s.max_norm / (norm + 1e-6f) : 1.0f),
        rate(s.learning_rate / s.correction1),
        root(1.0f / std::sqrt(s.correction2)) {}
  float clip, rate, root;
};

// One parameter's update; m and v become the new moments.
inline float Updated(const cuda::AdamWSettings& s, const StepFactors& step, float p, float gradient, float* m,
                     float* v) {
  const float g = gradient * step.clip;
  *m += (1 - s.beta1) * (g - *m);
  *v = s.beta2 * *v + (1 - s.beta2) * g * g;
  return p * (1 - s.learning_rate * s.weight_decay) - step.rate * *m / (std::sqrt(*v) * step.root + s.epsilon);
}

// Finds the nearest of a table's values. A number's upper half says where that is to a step or
// two, which is several times as fast as searching.
class NearestCode {
 public:
  explicit NearestCode(const float* table) : start_(1 << 16) {
    for (int i = 0; i < 255; ++i) middles_[i] = (table[i] + table[i + 1]) / 2;
    for (uint32_t upper = 0; upper < start_.size(); ++upper) {
      start_[upper] = static_cast<uint8_t>(
          std::lower_bound(middles_, middles_ + 255, std::bit_cast<float>(upper << 16)) - middles_);
    }
  }
  uint8_t operator()(float x) const {
    int code = start_[std::bit_cast<uint32_t>(x) >> 16];
    while (code > 0 && x <= middles_[code - 1]) --code;
    while (code < 255 && x > middles_[code]) ++code;
    return static_cast<uint8_t>(code);
  }

 private:
  float middles_[255];
  std::vector<uint8_t> start_;
};

// A moment's block as numbers and back.
struct MomentBlock {
  const float* table;
  uint8_t* codes;
  float* scale;
  float values[kMomentBlock];

  MomentBlock(const Moment8Bit& moment, int64_t block)
      : table(moment.table.const_data_ptr<float>()),
        codes(MutableElements<uint8_t>(moment.codes) + block * kMomentBlock),
        scale(MutableElements<float>(moment.scales) + block) {}
  void Unpack(int64_t size) {
    for (int64_t i = 0; i < size; ++i) values[i] = table[codes[i]] * *scale;
  }
  void Pack(int64_t size, const NearestCode& nearest) {
    float top = 0;
    for (int64_t i = 0; i < size; ++i) top = std::max(top, std::abs(values[i]));
    const float inverse = top > 0 ? 1 / top : 0.0f;
    for (int64_t i = 0; i < size; ++i) codes[i] = nearest(values[i] * inverse);
    *scale = top;
  }
};

void* CopyOf(const AdamWArguments& a) { return a.copy.defined() ? a.copy.mutable_data_ptr() : nullptr; }

// Where there are no kernels of our own.
void AtenStep(const cuda::AdamWSettings& s, float norm, const AdamWArguments& a, const Tensor& first,
              const Tensor& second) {
  if (!std::isfinite(norm)) return;
  const double clip = s.max_norm > 0 && norm > s.max_norm ? s.max_norm / (norm + 1e-6) : 1.0;
  const Tensor g = a.gradients * clip;
  Tensor p = a.parameters, m = first, v = second;
  m.lerp_(g, 1 - s.beta1);
  v.mul_(s.beta2).addcmul_(g, g, 1 - s.beta2);
  p.mul_(1 - s.learning_rate * s.weight_decay);
  p.addcdiv_(m, (v / s.correction2).sqrt_().add_(s.epsilon), -s.learning_rate / s.correction1);
  if (a.copy.defined()) Tensor(a.copy).copy_(p);
}

}  // namespace

void AdamWStep(const cuda::AdamWSettings& s, const Tensor& norm, const AdamWArguments& a, const Tensor& first,
               const Tensor& second) {
  float* p = MutableElements<float>(a.parameters);
  const float* g = Elements<float>(a.gradients);
  float *m = MutableElements<float>(first), *v = MutableElements<float>(second);
  const int64_t count = a.parameters.numel();
  if (UsesCudaKernels(a.parameters)) {
    cuda::AdamW(s, norm.const_data_ptr<float>(), p, CopyOf(a), g, m, v, count, CurrentCudaStream());
    return;
  }
  const float value = norm.item<float>();
  if (!UsesCpuLoops(a.parameters)) return AtenStep(s, value, a, first, second);
  if (!std::isfinite(value)) return;
  const StepFactors step(s, value);
  auto* copy = static_cast<Bf16*>(CopyOf(a));
  at::parallel_for(0, count, 16384, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) p[i] = Updated(s, step, p[i], g[i], m + i, v + i);
    for (int64_t i = begin; copy && i < end; ++i) Store(p[i], copy + i);
  });
}

void AdamWStep8Bit(const cuda::AdamWSettings& s, const Tensor& norm, const AdamWArguments& a, const Moment8Bit& first,
                   const Moment8Bit& second) {
  float* p = MutableElements<float>(a.parameters);
  const float* g = Elements<float>(a.gradients);
  const int64_t count = a.parameters.numel();
  if (UsesCudaKernels(a.parameters)) {
    cuda::AdamW8Bit(s, norm.const_data_ptr<float>(), first.table.const_data_ptr<float>(),
                    second.table.const_data_ptr<float>(), p, CopyOf(a), g, MutableElements<uint8_t>(first.codes),
                    MutableElements<float>(first.scales), MutableElements<uint8_t>(second.codes),
                    MutableElements<float>(second.scales), count, CurrentCudaStream());
    return;
  }
  TORCH_CHECK(a.parameters.is_cpu(), "8-bit optimizer state needs the CPU or a build with the CUDA kernels");
  const float value = norm.item<float>();
  if (!std::isfinite(value)) return;
  const StepFactors step(s, value);
  const NearestCode first_code(first.table.const_data_ptr<float>()), second_code(second.table.const_data_ptr<float>());
  auto* copy = static_cast<Bf16*>(CopyOf(a));
  at::parallel_for(0, first.scales.numel(), 16, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) {
      const int64_t begin = block * kMomentBlock, end = std::min(begin + kMomentBlock, count), size = end - begin;
      MomentBlock m(first, block), v(second, block);
      m.Unpack(size);
      v.Unpack(size);
      for (int64_t i = begin; i < end; ++i) {
        p[i] = Updated(s, step, p[i], g[i], m.values + i - begin, v.values + i - begin);
      }
      m.Pack(size, first_code);
      v.Pack(size, second_code);
      for (int64_t i = begin; copy && i < end; ++i) Store(p[i], copy + i);
    }
  });
}

}  // namespace attune
