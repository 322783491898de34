// Full and partial fine-tuning: some or all of the base model's own weights train.
#include <ATen/ATen.h>

#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/tuning/methods/method.h"

namespace attune {
namespace {

bool IsNorm(absl::string_view name) { return absl::StrContains(name, "norm"); }

// Part of a product's rows: trained by a leaf of its own, or frozen (leaf undefined).
struct Part {
  at::Tensor leaf;
  at::Tensor frozen;
};

class WeightsMethod final : public Method {
 public:
  // `selected` as SelectParameters gives it.
  WeightsMethod(std::shared_ptr<const BaseModel> base, const std::vector<bool>& selected) : base_(std::move(base)) {
    const ModelConfig& config = base_->config;
    weights_ = base_->weights;
    weights_.packed_head = nullptr;
    std::vector<NamedParameter> named = NamedParameters(config, base_->weights);
    size_t i = 0;
    auto leaf = [&]() -> at::Tensor { return selected[i] ? AddLeaf(named[i]) : at::Tensor(); };
    if (at::Tensor t = leaf(); t.defined()) weights_.embedding_VD = t;
    ++i;
    parts_.resize(config.layers);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      LayerWeights& w = weights_.layers[layer];
      w.packed = {};
      for (int p = 0; p < kProjections; ++p, ++i) {
        const int linear = static_cast<int>(SliceOf(config, static_cast<Projection>(p)).linear);
        parts_[layer][linear].push_back({leaf(), named[i].tensor});
      }
      if (at::Tensor t = leaf(); t.defined()) w.attention_norm_D = t;
      ++i;
      if (at::Tensor t = leaf(); t.defined()) w.ffn_norm_D = t;
      ++i;
    }
    if (at::Tensor t = leaf(); t.defined()) weights_.final_norm_D = t;
    ++i;
    if (config.tied_head) {
      weights_.head_VD = weights_.embedding_VD;
    } else if (at::Tensor t = leaf(); t.defined()) {
      weights_.head_VD = t;
    }
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  ModelKind kind() const override { return ModelKind::kFullWeights; }

  DecoderWeights Weights() const override {
    DecoderWeights weights = weights_;
    for (size_t layer = 0; layer < parts_.size(); ++layer) {
      for (int linear = 0; linear < kLinears; ++linear) {
        weights.layers[layer].linear[linear] = Join(parts_[layer][linear], weights_.layers[layer].linear[linear]);
      }
    }
    return weights;
  }

  absl::Status Save(const std::string& directory, const std::string&) const override {
    at::NoGradGuard no_grad;
    DecoderWeights weights = Weights();
    return SaveWeights(directory, base_->config, weights, *base_->tokenizer);
  }

 private:
  at::Tensor AddLeaf(const NamedParameter& parameter) {
    at::Tensor leaf = parameter.tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
    leaf.set_requires_grad(true);
    parameters_.push_back({parameter.name, leaf});
    return leaf;
  }

  // Frozen products stay the base's tensor; only mixed ones are put together.
  static at::Tensor Join(const std::vector<Part>& parts, const at::Tensor& base) {
    bool any = false;
    std::vector<at::Tensor> rows;
    for (const Part& part : parts) {
      any = any || part.leaf.defined();
      rows.push_back((part.leaf.defined() ? part.leaf : part.frozen).to(base.scalar_type()));
    }
    if (!any) return base;
    return rows.size() == 1 ? rows[0] : at::cat(rows);
  }

  const std::shared_ptr<const BaseModel> base_;
  DecoderWeights weights_;  // products are filled in by Weights()
  std::vector<std::array<std::vector<Part>, kLinears>> parts_;
  std::vector<Parameter> parameters_;
};

}  // namespace

absl::StatusOr<std::vector<bool>> SelectParameters(const PartialSpec& spec, const BaseModel& base) {
  if (spec.last_layers > base.config.layers) {
    return InvalidField("tuning_job.partial.last_layers",
                        absl::StrCat(spec.last_layers, " is more than the model's ", base.config.layers, " layers"));
  }
  std::vector<std::regex> patterns;
  for (const std::string& pattern : spec.parameter_patterns) {
    try {
      patterns.emplace_back(pattern);
    } catch (const std::regex_error&) {
      return InvalidField("tuning_job.partial.parameter_patterns",
                          absl::StrCat("'", pattern, "' is no regular expression"));
    }
  }
  std::vector<bool> selected;
  std::vector<bool> pattern_used(patterns.size(), false);
  bool any = false;
  for (const NamedParameter& parameter : NamedParameters(base.config, base.weights)) {
    bool chosen = spec.biases_and_norms && IsNorm(parameter.name);
    for (int64_t layer = base.config.layers - spec.last_layers; layer < base.config.layers; ++layer) {
      chosen = chosen || absl::StartsWith(parameter.name, absl::StrCat("model.layers.", layer, "."));
    }
    for (size_t i = 0; i < patterns.size(); ++i) {
      if (!std::regex_match(parameter.name, patterns[i])) continue;
      chosen = true;
      pattern_used[i] = true;
    }
    selected.push_back(chosen);
    any = any || chosen;
  }
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (pattern_used[i]) continue;
    return InvalidField("tuning_job.partial.parameter_patterns",
                        absl::StrCat("'", spec.parameter_patterns[i], "' matches no parameter"));
  }
  if (!any) return InvalidField("tuning_job.partial", "selects no parameter");
  return selected;
}

absl::StatusOr<std::unique_ptr<Method>> MakeFull(std::shared_ptr<const BaseModel> base) {
  std::vector<bool> all(NamedParameters(base->config, base->weights).size(), true);
  return std::make_unique<WeightsMethod>(std::move(base), all);
}

absl::StatusOr<std::unique_ptr<Method>> MakePartial(const PartialSpec& spec, std::shared_ptr<const BaseModel> base) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<bool> selected, SelectParameters(spec, *base));
  return std::make_unique<WeightsMethod>(std::move(base), selected);
}

}  // namespace attune
