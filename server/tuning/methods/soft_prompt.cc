#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <random>

#include "common/error.h"
#include "server/adapters/formats/peft.h"
#include "server/model/decoder.h"
#include "server/model/torch_target.h"
#include "server/tuning/methods/method.h"

namespace attune {
namespace {

// Prompt tuning (Lester et al. 2021): only the embeddings before the input train.
class SoftPromptMethod final : public Method {
 public:
  SoftPromptMethod(at::Tensor start_ND, std::string init_text, std::shared_ptr<const BaseModel> base)
      : base_(std::move(base)) {
    adapter_.soft_prompt = std::make_unique<SoftPrompt>();
    adapter_.soft_prompt->init_text = std::move(init_text);
    adapter_.soft_prompt->embeddings_ND = start_ND.set_requires_grad(true);
    parameters_.push_back({"prompt_embeddings", adapter_.soft_prompt->embeddings_ND});
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  DecoderWeights Weights() const override { return base_->weights; }
  const Adapter* adapter() const override { return &adapter_; }
  ModelKind kind() const override { return ModelKind::kSoftPrompt; }
  absl::Status Save(const std::string& directory, const std::string& base_model_name) const override {
    return SavePeft(directory, adapter_, base_->config, base_model_name);
  }

 private:
  const std::shared_ptr<const BaseModel> base_;
  Adapter adapter_;
  std::vector<Parameter> parameters_;
};

}  // namespace

absl::StatusOr<std::vector<int64_t>> StartIds(SoftPromptSpec::Init init, const std::string& init_text, int64_t count,
                                              const Tokenizer& tokenizer, uint64_t seed, const std::string& field) {
  std::vector<int64_t> ids(count);
  const bool from_text = init == SoftPromptSpec::Init::kText ||
                         (init == SoftPromptSpec::Init::kUnspecified && !init_text.empty());
  if (from_text) {
    std::vector<int32_t> text = tokenizer.Encode(init_text, /*parse_special=*/false);
    if (text.empty()) return InvalidField(field, "has no tokens");
    for (int64_t i = 0; i < count; ++i) ids[i] = text[i % text.size()];
    return ids;
  }
  std::mt19937_64 random(seed);
  for (int64_t& id : ids) {
    do {
      id = static_cast<int64_t>(random() % tokenizer.vocab_size());
    } while (tokenizer.IsSpecial(static_cast<int32_t>(id)));
  }
  return ids;
}

absl::StatusOr<std::unique_ptr<Method>> MakeSoftPrompt(const SoftPromptSpec& spec,
                                                       std::shared_ptr<const BaseModel> base, uint64_t seed) {
  const int64_t count = VirtualTokens(spec);
  const at::Tensor& table = base->weights.embedding_VD;
  at::Tensor start;
  if (spec.init == SoftPromptSpec::Init::kRandom) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const double scale = EmbeddingScale(base->config, table.scalar_type());
    start = at::empty({count, base->config.hidden}, at::kFloat)
                .normal_(0, table.to(at::kFloat).std().item<double>() * scale, generator)
                .to(DeviceOf(base->target));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<int64_t> ids, StartIds(spec.init, spec.init_text, count,
                                                                *base->tokenizer, seed, kSoftPromptStart));
    // As the tokens would come out of the table, scaled where the model scales them.
    start = EmbedRows(base->config, table, at::tensor(ids, at::kLong).to(table.device()), at::kFloat).clone();
  }
  return std::make_unique<SoftPromptMethod>(std::move(start), spec.init_text, std::move(base));
}

}  // namespace attune
