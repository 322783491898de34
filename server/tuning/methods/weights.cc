// Full and partial fine-tuning: some or all of the base model's own weights train.
#include <ATen/ATen.h>

#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/tuning/methods/method.h"

namespace attune {
namespace {

bool IsBiasOrNorm(absl::string_view name) { return absl::StrContains(name, "norm") || absl::EndsWith(name, ".bias"); }

class WeightsMethod final : public Method {
 public:
  // `selected` as SelectParameters gives it.
  WeightsMethod(std::shared_ptr<const BaseModel> base, const std::vector<bool>& selected) : base_(std::move(base)) {
    const ModelConfig& config = base_->config;
    const std::vector<NamedParameter> named = NamedParameters(config, base_->weights);
    size_t i = 0;
    auto next = [&]() -> at::Tensor {
      const size_t at = i++;
      return selected[at] ? AddLeaf(named[at]) : at::Tensor();
    };
    trained_.embedding_VD = next();
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      TrainedWeights::Layer& trained = trained_.layers.emplace_back();
      for (at::Tensor& projection : trained.projections) projection = next();
      for (int p = 0; p < kProjections; ++p) {
        if (HasBias(config, SliceOf(config, static_cast<Projection>(p)).linear)) trained.biases[p] = next();
      }
      trained.attention_norm_D = next();
      trained.ffn_norm_D = next();
      if (config.post_norms) trained.post_attention_norm_D = next();
      if (config.post_norms) trained.post_ffn_norm_D = next();
      if (config.qk_norm) trained.q_norm_A = next();
      if (config.qk_norm) trained.k_norm_A = next();
    }
    trained_.final_norm_D = next();
    trained_.head_VD = config.tied_head ? trained_.embedding_VD : next();
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  ModelKind kind() const override { return ModelKind::kFullWeights; }

  const TrainedWeights* trained_weights() const override { return &trained_; }

  DecoderWeights Weights() const override {
    DecoderWeights weights = base_->weights;
    weights.packed_head = nullptr;
    Replace(trained_.embedding_VD, &weights.embedding_VD);
    ReplaceNorm(trained_.final_norm_D, &weights.final_norm_D);
    Replace(trained_.head_VD, &weights.head_VD);
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      LayerWeights& layer = weights.layers[i];
      const TrainedWeights::Layer& trained = trained_.layers[i];
      layer.packed = {};
      ReplaceNorm(trained.attention_norm_D, &layer.attention_norm_D);
      ReplaceNorm(trained.ffn_norm_D, &layer.ffn_norm_D);
      ReplaceNorm(trained.post_attention_norm_D, &layer.post_attention_norm_D);
      ReplaceNorm(trained.post_ffn_norm_D, &layer.post_ffn_norm_D);
      ReplaceNorm(trained.q_norm_A, &layer.q_norm_A);
      ReplaceNorm(trained.k_norm_A, &layer.k_norm_A);
      for (int linear = 0; linear < kLinears; ++linear) {
        const Linear which = static_cast<Linear>(linear);
        layer.linear[linear] = Join(trained.projections, which, layer.linear[linear]);
        if (HasBias(base_->config, which)) layer.bias[linear] = Join(trained.biases, which, layer.bias[linear]);
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
    if (parameter.offset != 0) leaf.sub_(parameter.offset);
    leaf.set_requires_grad(true);
    parameters_.push_back({parameter.name, leaf});
    return leaf;
  }

  static void Replace(const at::Tensor& leaf, at::Tensor* weight) {
    if (leaf.defined()) *weight = leaf;
  }

  void ReplaceNorm(const at::Tensor& leaf, at::Tensor* weight) const {
    if (leaf.defined()) *weight = base_->config.norm_offset == 0 ? leaf : leaf + base_->config.norm_offset;
  }

  // The product's weight, or bias, with the rows that train. Frozen ones stay the base's tensor.
  at::Tensor Join(const std::array<at::Tensor, kProjections>& trained, Linear which, const at::Tensor& base) const {
    bool any = false;
    std::vector<at::Tensor> rows;
    for (int p = 0; p < kProjections; ++p) {
      const ProjectionSlice slice = SliceOf(base_->config, static_cast<Projection>(p));
      if (slice.linear != which) continue;
      const at::Tensor& leaf = trained[p];
      any = any || leaf.defined();
      rows.push_back((leaf.defined() ? leaf : base.narrow(0, slice.row, slice.rows)).to(base.scalar_type()));
    }
    if (!any) return base;
    return rows.size() == 1 ? rows[0] : at::cat(rows);
  }

  const std::shared_ptr<const BaseModel> base_;
  TrainedWeights trained_;
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
    bool chosen = spec.biases_and_norms && IsBiasOrNorm(parameter.name);
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
