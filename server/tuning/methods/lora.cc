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
// the first step is the base model's. Embedding and head may be adapted, too, or train whole beside the adapter.
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
    AddVocabulary(spec, &generator, &fast);
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
    return spec.target_modules.empty() || Contains(spec.target_modules, static_cast<TargetModule>(projection + 1));
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
    LoraModule& module = lora.layers[layer][static_cast<int>(projection)];
    module = MakeModule(in, slice.rows, generator);
    const std::string name = absl::StrCat("layers.", layer, ".", ProjectionPath(projection));
    parameters_.push_back({name + ".lora_A", module.a_RI});
    return {name + ".lora_B", module.b_OR, rate_of_b_};
  }

  // A Kaiming with a = sqrt(5): bound = sqrt(6 / ((1 + 5) * fan_in)).
  LoraModule MakeModule(int64_t in, int64_t out, at::Generator* generator) const {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    const LoraAdapter& lora = *adapter_.lora;
    return Leaves(at::empty({lora.rank, in}, at::kFloat).uniform_(-bound, bound, *generator),
                  at::zeros({out, lora.rank}, at::kFloat));
  }

  // Start values are drawn on the CPU, so that a seed means the same on every device.
  LoraModule Leaves(const at::Tensor& a_RI, const at::Tensor& b_OR) const {
    const LoraAdapter& lora = *adapter_.lora;
    const at::Device device = DeviceOf(base_->target);
    return {a_RI.to(device).set_requires_grad(true), b_OR.to(device).set_requires_grad(true),
            lora.alpha / (lora.use_rslora ? std::sqrt(static_cast<double>(lora.rank)) : lora.rank)};
  }

  // Embedding and head, behind the layers: what those start from is the same with and without. `fast` as above.
  void AddVocabulary(const LoraSpec& spec, at::Generator* generator, std::vector<Parameter>* fast) {
    LoraAdapter& lora = *adapter_.lora;
    const int64_t vocab = base_->config.vocab, hidden = base_->config.hidden;
    if (Contains(spec.target_modules, TargetModule::kEmbedTokens)) {
      // A is looked up, as the table is: PEFT has it begin at zero, and B normal.
      lora.embedding = Leaves(at::zeros({lora.rank, vocab}, at::kFloat),
                              at::empty({hidden, lora.rank}, at::kFloat).normal_(0, 1, *generator));
      parameters_.push_back({"embed_tokens.lora_embedding_A", lora.embedding.a_RI});
      parameters_.push_back({"embed_tokens.lora_embedding_B", lora.embedding.b_OR});
    }
    if (Contains(spec.target_modules, TargetModule::kLmHead)) {
      lora.head = MakeModule(hidden, vocab, generator);
      parameters_.push_back({"lm_head.lora_A", lora.head.a_RI});
      (rate_of_b_ == 1 ? parameters_ : *fast).push_back({"lm_head.lora_B", lora.head.b_OR, rate_of_b_});
    }
    AddTable(spec, TargetModule::kEmbedTokens, base_->weights.embedding_VD, &lora.embedding_VD);
    AddTable(spec, TargetModule::kLmHead, base_->weights.head_VD, &lora.head_VD);
  }

  // A copy even where the base model's head is its embedding: each trains apart.
  void AddTable(const LoraSpec& spec, TargetModule module, const at::Tensor& of_base_VD, at::Tensor* table_VD) {
    if (!Contains(spec.modules_to_save, module)) return;
    *table_VD = of_base_VD.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous().set_requires_grad(true);
    parameters_.push_back({absl::StrCat(TargetModuleName(module), ".weight"), *table_VD});
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
    return spec.target_modules.empty() ||
           Contains(spec.target_modules, static_cast<TargetModule>(static_cast<int>(projection) + 1));
  };
  for (const FileModule& module : FileModules(base.config)) {
    const auto targeted = std::count_if(module.projections.begin(), module.projections.end(), is_targeted);
    if (targeted == 0) continue;
    if (targeted != static_cast<int64_t>(module.projections.size())) {
      return InvalidField("tuning_job.lora.target_modules", absl::StrCat("must name all or none of the projections of ", module.path,
                                                                         " with DoRA"));
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
