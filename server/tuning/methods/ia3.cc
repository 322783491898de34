#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "server/adapters/formats/peft.h"
#include "server/model/torch_target.h"
#include "server/tuning/methods/method.h"

namespace attune {
namespace {

// IA3 (Liu et al. 2022): scales start at one, so that the first step is the base model's.
class Ia3Method final : public Method {
 public:
  Ia3Method(const Ia3Spec& spec, std::shared_ptr<const BaseModel> base) : base_(std::move(base)) {
    adapter_.ia3 = std::make_unique<Ia3Adapter>();
    adapter_.ia3->layers.resize(base_->config.layers);
    for (int64_t i = 0; i < base_->config.layers; ++i) {
      for (int p = 0; p < kProjections; ++p) {
        if (IsIa3Target(spec.target_modules, static_cast<Projection>(p))) AddScale(i, static_cast<Projection>(p));
      }
    }
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  DecoderWeights Weights() const override { return base_->weights; }
  const Adapter* adapter() const override { return &adapter_; }
  ModelKind kind() const override { return ModelKind::kIa3; }
  absl::Status Save(const std::string& directory, const std::string& base_model_name) const override {
    return SavePeft(directory, adapter_, base_->config, base_model_name);
  }

 private:
  void AddScale(int64_t layer, Projection projection) {
    const ModelConfig& config = base_->config;
    const bool is_inner = projection == Projection::kDown;
    Ia3Adapter::Layer& scales = adapter_.ia3->layers[layer];
    at::Tensor& scale = is_inner ? scales.inner_I : scales.output[static_cast<int>(projection)];
    scale = at::ones({is_inner ? config.intermediate : SliceOf(config, projection).rows},
                     at::TensorOptions(at::kFloat).device(DeviceOf(base_->target)))
                .set_requires_grad(true);
    parameters_.push_back({absl::StrCat("layers.", layer, ".", ProjectionPath(projection), ".ia3_l"), scale});
  }

  const std::shared_ptr<const BaseModel> base_;
  Adapter adapter_;
  std::vector<Parameter> parameters_;
};

}  // namespace

bool IsIa3Target(const std::vector<TargetModule>& targets, Projection projection) {
  if (targets.empty()) {
    return projection == Projection::kK || projection == Projection::kV || projection == Projection::kDown;
  }
  for (TargetModule target : targets) {
    if (static_cast<int>(target) == static_cast<int>(projection) + 1) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<Method>> MakeIa3(const Ia3Spec& spec, std::shared_ptr<const BaseModel> base) {
  return std::make_unique<Ia3Method>(spec, std::move(base));
}

}  // namespace attune
