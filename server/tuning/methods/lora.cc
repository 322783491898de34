#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/dora.h"
#include "server/adapters/formats/peft.h"
#include "server/model/file_modules.h"
#include "server/model/torch_target.h"
#include "server/tuning/methods/method.h"

namespace attune {
namespace {

// LoRA (Hu et al. 2021): A starts Kaiming-uniform with a = sqrt(5), B at zero, so that
// the first step is the base model's.
class LoraMethod final : public Method {
 public:
  LoraMethod(const LoraSpec& spec, std::shared_ptr<const BaseModel> base, uint64_t seed) : base_(std::move(base)) {
    adapter_.lora = std::make_unique<LoraAdapter>();
    LoraAdapter& lora = *adapter_.lora;
    lora.rank = spec.rank ? spec.rank : 16;
    lora.alpha = spec.alpha > 0 ? spec.alpha : 2.0 * lora.rank;
    lora.dropout = spec.dropout.value_or(0.05);
    lora.use_rslora = spec.use_rslora;
    lora.use_dora = spec.use_dora;
    lora.layers.resize(base_->config.layers);
    rate_of_b_ = std::max(1.0, spec.learning_rate_ratio);
    std::vector<Parameter> fast;  // with a rate of their own B's stand behind all A's, so that the optimizer has two runs
    at::Generator generator = at::detail::createCPUGenerator(seed);
    for (int64_t i = 0; i < base_->config.layers; ++i) {
      std::vector<Parameter> pending, magnitudes;  // the B's of the product at hand, and its magnitudes
      for (int p = 0; p < kProjections; ++p) {
        if (IsTargeted(spec, p)) {
          pending.push_back(AddModule(i, static_cast<Projection>(p), &generator));
          if (spec.use_dora) magnitudes.push_back(AddMagnitude(i, static_cast<Projection>(p)));
        }
        const bool last = p + 1 == kProjections || LinearOf(p + 1) != LinearOf(p);
        if (!last) continue;
        std::vector<Parameter>& to = rate_of_b_ == 1 ? parameters_ : fast;
        to.insert(to.end(), pending.begin(), pending.end());
        parameters_.insert(parameters_.end(), magnitudes.begin(), magnitudes.end());
        pending.clear();
        magnitudes.clear();
      }
    }
    parameters_.insert(parameters_.end(), fast.begin(), fast.end());
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  DecoderWeights Weights() const override { return base_->weights; }
  const Adapter* adapter() const override { return &adapter_; }
  ModelKind kind() const override { return ModelKind::kLora; }
  absl::Status Save(const std::string& directory, const std::string& base_model_name) const override {
    return SavePeft(directory, adapter_, base_->config, base_model_name);
  }

 private:
  static bool IsTargeted(const LoraSpec& spec, int projection) {
    if (spec.target_modules.empty()) return true;
    for (TargetModule module : spec.target_modules) {
      if (static_cast<int>(module) == projection + 1) return true;
    }
    return false;
  }

  Linear LinearOf(int projection) const {
    return SliceOf(base_->config, static_cast<Projection>(projection)).linear;
  }

  // Lists the module's A and returns its B: the A's of one product stand together in the
  // list, and so in FlatParameters, as one matrix.
  Parameter AddModule(int64_t layer, Projection projection, at::Generator* generator) {
    LoraAdapter& lora = *adapter_.lora;
    const ProjectionSlice slice = SliceOf(base_->config, projection);
    const int64_t in = InputSize(base_->config, slice.linear);
    // Kaiming with a = sqrt(5): bound = sqrt(6 / ((1 + 5) * fan_in)). Drawn on the CPU,
    // so that a seed means the same start on every device.
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    LoraModule& module = lora.layers[layer][static_cast<int>(projection)];
    const at::Device device = DeviceOf(base_->target);
    module.a_RI = at::empty({lora.rank, in}, at::kFloat).uniform_(-bound, bound, *generator).to(device);
    module.b_OR = at::zeros({slice.rows, lora.rank}, at::TensorOptions(at::kFloat).device(device));
    module.scale = lora.alpha / (lora.use_rslora ? std::sqrt(static_cast<double>(lora.rank)) : lora.rank);
    module.a_RI.set_requires_grad(true);
    module.b_OR.set_requires_grad(true);
    const std::string name = absl::StrCat("layers.", layer, ".", ProjectionPath(projection));
    parameters_.push_back({name + ".lora_A", module.a_RI});
    return {name + ".lora_B", module.b_OR, rate_of_b_};
  }

  // DoRA's: with B at zero they are the lengths of the base model's rows.
  Parameter AddMagnitude(int64_t layer, Projection projection) {
    LoraModule& module = adapter_.lora->layers[layer][static_cast<int>(projection)];
    const at::Tensor weight = ProjectionWeight(base_->config, base_->weights.layers[layer], projection, at::kFloat);
    module.magnitude_O = RowNorms(weight, module);
    module.magnitude_O.set_requires_grad(true);
    return {absl::StrCat("layers.", layer, ".", ProjectionPath(projection), ".lora_magnitude"), module.magnitude_O};
  }

  const std::shared_ptr<const BaseModel> base_;
  double rate_of_b_ = 1;
  Adapter adapter_;
  std::vector<Parameter> parameters_;
};

// What no server could use afterwards, or no file hold.
absl::Status CheckDora(const LoraSpec& spec, const BaseModel& base) {
  auto is_targeted = [&](Projection projection) {
    const auto module = static_cast<TargetModule>(static_cast<int>(projection) + 1);
    return spec.target_modules.empty() ||
           std::find(spec.target_modules.begin(), spec.target_modules.end(), module) != spec.target_modules.end();
  };
  for (const FileModule& module : FileModules(base.config)) {
    const auto targeted = std::count_if(module.projections.begin(), module.projections.end(), is_targeted);
    if (targeted == 0) continue;
    if (targeted != static_cast<int64_t>(module.projections.size())) {
      return InvalidField("tuning_job.lora.target_modules", absl::StrCat("must name all or none of the projections of ", module.path,
                                                                         " with DoRA"));
    }
    if (base.target.device == ComputeTarget::Device::kCuda && HasBias(base.config, module.linear)) {
      return InvalidField("tuning_job.lora.use_dora", absl::StrCat("is not supported over ", module.path,
                                                                   " on a GPU, because it has a bias; leave it out of target_modules"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Method>> MakeLora(const LoraSpec& spec, std::shared_ptr<const BaseModel> base,
                                                 uint64_t seed) {
  if (spec.use_dora) ATTUNE_RETURN_IF_ERROR(CheckDora(spec, *base));
  return std::make_unique<LoraMethod>(spec, std::move(base), seed);
}

}  // namespace attune
