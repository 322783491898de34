#include "server/tuning/methods/method.h"

#include <ATen/ATen.h>

#include "common/error.h"

namespace attune {
namespace {

template <typename... T>
struct Overloaded : T... {
  using T::operator()...;
};
template <typename... T>
Overloaded(T...) -> Overloaded<T...>;

int64_t LoraParameters(const LoraSpec& spec, const ModelConfig& config) {
  const int64_t rank = spec.rank ? spec.rank : 16;
  int64_t per_layer = 0;
  for (int p = 0; p < kProjections; ++p) {
    const Projection projection = static_cast<Projection>(p);
    bool targeted = spec.target_modules.empty();
    for (TargetModule module : spec.target_modules) targeted = targeted || static_cast<int>(module) == p + 1;
    if (!targeted) continue;
    const ProjectionSlice slice = SliceOf(config, projection);
    per_layer += rank * (InputSize(config, slice.linear) + slice.rows) + (spec.use_dora ? slice.rows : 0);
  }
  int64_t adapted = 0;
  for (TargetModule module : spec.target_modules) adapted += IsVocabulary(module);
  const int64_t whole = static_cast<int64_t>(spec.modules_to_save.size());
  return per_layer * config.layers + adapted * rank * (config.vocab + config.hidden) + whole * config.vocab * config.hidden;
}

int64_t Ia3Parameters(const Ia3Spec& spec, const ModelConfig& config) {
  int64_t per_layer = 0;
  for (int p = 0; p < kProjections; ++p) {
    const Projection projection = static_cast<Projection>(p);
    if (!IsIa3Target(spec.target_modules, projection)) continue;
    per_layer += projection == Projection::kDown ? config.intermediate : SliceOf(config, projection).rows;
  }
  return per_layer * config.layers;
}

// Text prompts are searched for, by another runner.
absl::Status TrainsNothing() { return absl::InternalError("a text prompt came to the runner that trains"); }

}  // namespace

absl::StatusOr<std::unique_ptr<Method>> MakeMethod(const MethodSpec& spec, std::shared_ptr<const BaseModel> base,
                                                   uint64_t seed) {
  using Result = absl::StatusOr<std::unique_ptr<Method>>;
  return std::visit(Overloaded{
                        [&](const FullSpec&) -> Result { return MakeFull(base); },
                        [&](const PartialSpec& s) -> Result { return MakePartial(s, base); },
                        [&](const LoraSpec& s) -> Result { return MakeLora(s, base, seed); },
                        [&](const SoftPromptSpec& s) -> Result { return MakeSoftPrompt(s, base, seed); },
                        [&](const PrefixSpec& s) -> Result { return MakePrefix(s, base, seed); },
                        [&](const Ia3Spec& s) -> Result { return MakeIa3(s, base); },
                        [&](const TextPromptSpec&) -> Result { return TrainsNothing(); },
                    },
                    spec);
}

int64_t VirtualTokens(const MethodSpec& spec) {
  constexpr int64_t kDefault = 20;
  const auto* prompt = std::get_if<SoftPromptSpec>(&spec);
  const auto* prefix = std::get_if<PrefixSpec>(&spec);
  if (!prompt && !prefix) return 0;
  const int64_t count = prompt ? prompt->num_virtual_tokens : prefix->num_virtual_tokens;
  return count ? count : kDefault;
}

absl::Status CheckStart(const MethodSpec& spec, const Tokenizer& tokenizer) {
  if (const auto* prompt = std::get_if<SoftPromptSpec>(&spec); prompt && prompt->init != SoftPromptSpec::Init::kRandom) {
    return StartIds(prompt->init, prompt->init_text, 1, tokenizer, 0, kSoftPromptStart).status();
  }
  if (const auto* prefix = std::get_if<PrefixSpec>(&spec)) {
    return StartIds(prefix->init, prefix->init_text, 1, tokenizer, 0, kPrefixStart).status();
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CountTrainable(const MethodSpec& spec, const BaseModel& base) {
  using Result = absl::StatusOr<int64_t>;
  return std::visit(Overloaded{
                        [&](const FullSpec&) -> Result { return base.config.Parameters(); },
                        [&](const PartialSpec& s) -> Result {
                          ATTUNE_ASSIGN_OR_RETURN(std::vector<bool> selected, SelectParameters(s, base));
                          std::vector<NamedParameter> named = NamedParameters(base.config, base.weights);
                          int64_t count = 0;
                          for (size_t i = 0; i < named.size(); ++i) count += selected[i] ? named[i].tensor.numel() : 0;
                          return count;
                        },
                        [&](const LoraSpec& s) -> Result { return LoraParameters(s, base.config); },
                        [&](const SoftPromptSpec&) -> Result { return VirtualTokens(spec) * base.config.hidden; },
                        [&](const PrefixSpec&) -> Result {
                          return VirtualTokens(spec) * base.config.layers * 2 * base.config.kv_size();
                        },
                        [&](const Ia3Spec& s) -> Result { return Ia3Parameters(s, base.config); },
                        [&](const TextPromptSpec&) -> Result { return TrainsNothing(); },
                    },
                    spec);
}

}  // namespace attune
