#include "server/adapters/lora_codes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "server/model/kernels/cuda/launch.h"

namespace attune {
namespace {

using at::Tensor;

// Below, codes are hardly fewer bytes.
constexpr int64_t kLeastRank = 4;

// Rows of int8 and their scales, fp32: values are about code * scale.
struct Rows {
  Tensor codes, scale_R;
};
Rows Quantise(const Tensor& values_RN) {
  constexpr float kMostCode = 127, kLeast = 1e-30f;  // of rows that are zero
  const Tensor values = values_RN.to(at::kFloat), scale = values.abs().amax(1).clamp_min(kLeast) / kMostCode;
  return {(values / scale.unsqueeze(1)).round().to(at::kChar), scale};
}

LoraModule::Codes CodesOf(const LoraModule& module) {
  const Rows a = Quantise(module.a_RI), b = Quantise(module.b_OR.t());
  const int64_t rank = module.a_RI.size(0), load = rank <= cuda::kLeastCodes ? cuda::kLeastCodes : cuda::kCodesOfLoad;
  return {a.codes, at::constant_pad_nd(b.codes.t(), {0, (load - rank % load) % load}).contiguous(), a.scale_R * b.scale_R};
}

bool TakesCodes(const LoraModule& module) {
  if (!module.defined()) return true;
  const int64_t rank = module.a_RI.size(0);
  if (module.a_RI.size(1) % cuda::kCodesOfLoad != 0) return false;
  return rank >= kLeastRank && rank <= cuda::kMostLoraRanks;
}

// |left right|^2 of left ON and right NI, without making the product.
Tensor SquaredNorm(const Tensor& left, const Tensor& right) { return (left.t().matmul(left) * right.matmul(right.t())).sum(); }

}  // namespace

void AddLoraCodes(Adapter* adapter) {
  for (const auto& layer : adapter->lora->layers) {
    if (!std::all_of(layer.begin(), layer.end(), TakesCodes)) return;
  }
  adapter->lora->has_codes = true;
  for (auto& layer : adapter->lora->layers) {
    for (LoraModule& module : layer) {
      if (!module.defined()) continue;
      module.codes = CodesOf(module);
      for (const Tensor* made : {&module.codes.a_RI, &module.codes.b_OR, &module.codes.scale_R}) {
        adapter->bytes += static_cast<int64_t>(made->nbytes());
      }
    }
  }
}

double LoraCodesError(const LoraAdapter& lora) {
  Tensor wrong, all;
  for (const auto& layer : lora.layers) {
    for (const LoraModule& module : layer) {
      if (!module.codes.defined()) continue;
      const int64_t rank = module.a_RI.size(0);
      const Tensor a = module.a_RI.to(at::kDouble), b = module.b_OR.to(at::kDouble);
      // All scales on A's side: what B's codes stand for is known but for a factor of each rank.
      const Tensor a_codes = module.codes.a_RI.to(at::kDouble) * module.codes.scale_R.unsqueeze(1).to(at::kDouble);
      const Tensor b_codes = module.codes.b_OR.narrow(1, 0, rank).to(at::kDouble);
      // B A - Bc Ac, a product itself.
      const Tensor differs = SquaredNorm(at::cat({b, -b_codes}, 1), at::cat({a, a_codes}, 0)) * (module.scale * module.scale);
      const Tensor update = SquaredNorm(b, a) * (module.scale * module.scale);
      wrong = wrong.defined() ? wrong + differs : differs;
      all = all.defined() ? all + update : update;
    }
  }
  if (!all.defined()) return 0;
  const double whole = all.item<double>();
  return whole > 0 ? std::sqrt(std::max(wrong.item<double>(), 0.0) / whole) : 0;
}

}  // namespace attune
