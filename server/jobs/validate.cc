#include "server/jobs/validate.h"

#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune {
namespace {

// Gathers what is wrong with a job.
class Checker {
 public:
  void Require(bool good, absl::string_view field, absl::string_view description) {
    if (!good) violations_.push_back({absl::StrCat("tuning_job.", field), std::string(description)});
  }

  // Zero stands for unset.
  void RequireRangeOrUnset(int64_t value, int64_t low, int64_t high, absl::string_view field) {
    Require(value == 0 || (value >= low && value <= high), field,
            absl::StrCat("must be ", low, " to ", high, ", or unset; is ", value));
  }

  void RequireNotNegative(double value, absl::string_view field) {
    Require(std::isfinite(value) && value >= 0, field, absl::StrCat("must not be negative; is ", value));
  }

  // `path` is the whole field path.
  void RequireId(absl::string_view id, absl::string_view path) {
    absl::Status status = CheckId(id, path);
    if (status.ok()) return;
    for (FieldViolation& violation : GetErrorDetails(status).violations) violations_.push_back(std::move(violation));
  }

  absl::Status Result() && {
    if (violations_.empty()) return absl::OkStatus();
    std::string message = absl::StrJoin(violations_, "; ", [](std::string* out, const FieldViolation& violation) {
      absl::StrAppend(out, violation.field, ": ", violation.description);
    });
    return MakeError(absl::StatusCode::kInvalidArgument, "INVALID_FIELD", message, {}, std::move(violations_));
  }

 private:
  std::vector<FieldViolation> violations_;
};

bool InUnitInterval(double value) { return value >= 0 && value <= 1; }

void CheckMethod(const FullSpec&, Checker&) {}

void CheckMethod(const PartialSpec& partial, Checker& checker) {
  checker.Require(partial.last_layers >= 0, "partial.last_layers", "must not be negative");
  for (const std::string& pattern : partial.parameter_patterns) {
    checker.Require(!pattern.empty(), "partial.parameter_patterns", "must not hold an empty pattern");
  }
  checker.Require(partial.last_layers > 0 || !partial.parameter_patterns.empty() || partial.biases_and_norms, "partial",
                  "selects nothing: set last_layers, parameter_patterns or biases_and_norms");
}

void CheckTargets(const std::vector<TargetModule>& modules, const std::string& field, Checker& checker) {
  std::set<TargetModule> seen;
  for (TargetModule module : modules) {
    checker.Require(!TargetModuleName(module).empty(), field, "holds no known module");
    checker.Require(seen.insert(module).second, field, absl::StrCat("names ", TargetModuleName(module), " twice"));
  }
}

// What is adapted or trained whole outside the layers.
void CheckVocabulary(const LoraSpec& lora, Checker& checker) {
  CheckTargets(lora.modules_to_save, "lora.modules_to_save", checker);
  for (TargetModule module : lora.modules_to_save) {
    const absl::string_view name = TargetModuleName(module);
    checker.Require(name.empty() || IsVocabulary(module), "lora.modules_to_save",
                    absl::StrCat("must name none but embed_tokens and lm_head, not ", name));
    checker.Require(!Contains(lora.target_modules, module), "lora.modules_to_save",
                    absl::StrCat("names ", name, ", which target_modules names, too"));
  }
  const bool adapts_embedding = Contains(lora.target_modules, TargetModule::kEmbedTokens);
  checker.Require(!lora.use_dora || (!adapts_embedding && !Contains(lora.target_modules, TargetModule::kLmHead)),
                  "lora.use_dora", "is not supported over embed_tokens and lm_head; leave them out of target_modules");
  checker.Require(lora.learning_rate_ratio <= 1 || !adapts_embedding, "lora.learning_rate_ratio",
                  "is not supported with embed_tokens among target_modules");
}

void CheckMethod(const LoraSpec& lora, Checker& checker) {
  checker.RequireRangeOrUnset(lora.rank, 1, 512, "lora.rank");
  checker.RequireNotNegative(lora.alpha, "lora.alpha");
  if (lora.dropout) {
    checker.Require(*lora.dropout >= 0 && *lora.dropout < 1, "lora.dropout", "must be at least 0 and below 1");
  }
  CheckTargets(lora.target_modules, "lora.target_modules", checker);
  CheckVocabulary(lora, checker);
  checker.Require(lora.learning_rate_ratio == 0 || (lora.learning_rate_ratio >= 1 && lora.learning_rate_ratio <= 1000),
                  "lora.learning_rate_ratio", "must be 1 to 1000");
}

// Of a soft prompt or a prefix: `method` is the proto's field.
void CheckVirtualTokens(int32_t count, SoftPromptSpec::Init init, const std::string& init_text,
                        const std::string& method, Checker& checker) {
  checker.RequireRangeOrUnset(count, 1, 1024, absl::StrCat(method, ".num_virtual_tokens"));
  checker.Require(static_cast<int>(init) >= 0 && init <= SoftPromptSpec::Init::kRandom, absl::StrCat(method, ".init"),
                  "is no known way to start");
  checker.Require(init != SoftPromptSpec::Init::kText || !init_text.empty(), absl::StrCat(method, ".init_text"),
                  "is required with init TEXT");
}

void CheckMethod(const SoftPromptSpec& soft, Checker& checker) {
  CheckVirtualTokens(soft.num_virtual_tokens, soft.init, soft.init_text, "soft_prompt", checker);
}

void CheckMethod(const PrefixSpec& prefix, Checker& checker) {
  CheckVirtualTokens(prefix.num_virtual_tokens, prefix.init, prefix.init_text, "prefix", checker);
}

void CheckMethod(const Ia3Spec& ia3, Checker& checker) {
  CheckTargets(ia3.target_modules, "ia3.target_modules", checker);
  for (TargetModule module : ia3.target_modules) {
    checker.Require(!IsVocabulary(module), "ia3.target_modules", absl::StrCat("must not name ", TargetModuleName(module)));
  }
}

void CheckMethod(const TextPromptSpec& prompt, Checker& checker) {
  checker.Require(prompt.instructions.size() <= 100, "text_prompt.instructions", "must be at most 100");
  for (const std::string& instruction : prompt.instructions) {
    checker.Require(!instruction.empty() && instruction.size() <= 8192, "text_prompt.instructions",
                    "must each be 1 to 8192 bytes");
  }
  const int32_t examples = prompt.max_examples.value_or(0);
  checker.Require(examples >= 0 && examples <= 64, "text_prompt.max_examples", "must be 0 to 64");
  const int selection = static_cast<int>(prompt.selection), metric = static_cast<int>(prompt.metric);
  checker.Require(selection >= 0 && selection <= static_cast<int>(TextPromptSpec::Selection::kSimilar),
                  "text_prompt.example_selection", "is no known selection");
  checker.Require(metric >= 0 && metric <= static_cast<int>(TextPromptSpec::Metric::kLoss), "text_prompt.metric",
                  "is no known metric");
  checker.RequireRangeOrUnset(prompt.candidates, 2, 200, "text_prompt.candidates");
  checker.RequireRangeOrUnset(prompt.rounds, 1, 20, "text_prompt.rounds");
  checker.Require(prompt.max_calls >= 0, "text_prompt.max_calls", "must not be negative");
  checker.Require(prompt.max_tokens >= 0, "text_prompt.max_tokens", "must not be negative");
  checker.RequireNotNegative(prompt.max_minutes, "text_prompt.max_minutes");
}

void CheckOptimizer(const Hyperparameters& h, Checker& checker) {
  checker.RequireNotNegative(h.learning_rate, "hyperparameters.learning_rate");
  checker.RequireNotNegative(h.learning_rate_multiplier, "hyperparameters.learning_rate_multiplier");
  const int schedule = static_cast<int>(h.schedule);
  checker.Require(schedule >= 0 && schedule <= static_cast<int>(LearningRateSchedule::kConstant),
                  "hyperparameters.schedule", "is no known schedule");
  checker.Require(InUnitInterval(h.warmup_ratio.value_or(0)), "hyperparameters.warmup_ratio", "must be 0 to 1");
  checker.RequireNotNegative(h.weight_decay.value_or(0), "hyperparameters.weight_decay");
  for (auto [beta, field] : {std::pair(h.adam_beta1, "hyperparameters.adam_beta1"),
                             std::pair(h.adam_beta2, "hyperparameters.adam_beta2")}) {
    const double value = beta.value_or(0);
    checker.Require(value >= 0 && value < 1, field, "must be at least 0 and below 1");
  }
  const double epsilon = h.adam_epsilon.value_or(1);
  checker.Require(std::isfinite(epsilon) && epsilon > 0, "hyperparameters.adam_epsilon", "must be above 0");
  checker.RequireNotNegative(h.max_gradient_norm.value_or(0), "hyperparameters.max_gradient_norm");
}

void CheckHyperparameters(const Hyperparameters& h, Checker& checker) {
  checker.RequireNotNegative(h.epochs, "hyperparameters.epochs");
  checker.Require(h.max_steps >= 0, "hyperparameters.max_steps", "must not be negative");
  checker.RequireRangeOrUnset(h.batch_size, 1, 4096, "hyperparameters.batch_size");
  CheckOptimizer(h, checker);
  checker.RequireRangeOrUnset(h.micro_batch_tokens, 64, 1048576, "hyperparameters.micro_batch_tokens");
  checker.Require(h.early_stopping_patience >= 0, "hyperparameters.early_stopping_patience", "must not be negative");
  checker.Require(h.checkpoint_steps >= 0, "hyperparameters.checkpoint_steps", "must not be negative");
  checker.RequireRangeOrUnset(h.max_checkpoints, 1, 100, "hyperparameters.max_checkpoints");
  checker.Require(h.precision.empty() || h.precision == "auto" || h.precision == "float32" || h.precision == "bfloat16",
                  "hyperparameters.precision", "must be \"auto\", \"float32\" or \"bfloat16\"");
  checker.Require(
      h.quantization.empty() || h.quantization == "none" || h.quantization == "int8" || h.quantization == "nf4",
      "hyperparameters.quantization", "must be \"none\", \"int8\" or \"nf4\"");
  checker.Require(h.optimizer_state.empty() || h.optimizer_state == "float32" || h.optimizer_state == "int8",
                  "hyperparameters.optimizer_state", "must be \"float32\" or \"int8\"");
  checker.Require(h.neftune_noise_alpha >= 0 && h.neftune_noise_alpha <= 1000, "hyperparameters.neftune_noise_alpha",
                  "must be 0 to 1000");
}

// Full and partial tuning write the weights that quantisation would round away.
bool TrainsWeights(const MethodSpec& method) {
  return std::holds_alternative<FullSpec>(method) || std::holds_alternative<PartialSpec>(method);
}

// A search trains nothing: settings that would have no effect are refused.
void CheckSearch(const JobSpec& spec, Checker& checker) {
  if (!std::holds_alternative<TextPromptSpec>(spec.method)) return;
  Hyperparameters used;
  used.seed = spec.hyperparameters.seed;
  checker.Require(spec.hyperparameters == used, "hyperparameters", "must be unset but for seed with text_prompt");
  checker.Require(!spec.data.train_on_prompt, "data.train_on_prompt", "must be false with text_prompt");
  checker.Require(!spec.validation_dataset.empty() || spec.data.validation_fraction >= 0, "data.validation_fraction",
                  "must not be negative with text_prompt, which chooses by validation rows");
}

void CheckStartFrom(const JobSpec& spec, Checker& checker) {
  if (!spec.start_from) return;
  const StartPoint& start = *spec.start_from;
  checker.Require(!std::holds_alternative<TextPromptSpec>(spec.method), "start_from", "must be unset with text_prompt");
  if (!start.model.empty()) {
    checker.RequireId(start.model, "tuning_job.start_from");
  } else {
    checker.RequireId(start.job, "tuning_job.start_from");
    checker.Require(start.step > 0, "start_from", "must name a checkpoint's step, from 1");
  }
  auto require_unset = [&](SoftPromptSpec::Init init, const std::string& text, const std::string& method) {
    checker.Require(init == SoftPromptSpec::Init::kUnspecified, method + ".init", "must be unset with start_from");
    checker.Require(text.empty(), method + ".init_text", "must be unset with start_from");
  };
  if (const auto* s = std::get_if<SoftPromptSpec>(&spec.method)) require_unset(s->init, s->init_text, "soft_prompt");
  if (const auto* s = std::get_if<PrefixSpec>(&spec.method)) require_unset(s->init, s->init_text, "prefix");
}

void CheckObjective(const JobSpec& spec, Checker& checker) {
  const bool searches = std::holds_alternative<TextPromptSpec>(spec.method);
  if (spec.dpo) {
    checker.Require(!searches, "dpo", "must be unset with text_prompt");
    checker.Require(spec.dpo->beta >= 0 && spec.dpo->beta <= 100, "dpo.beta", "must be above 0 and at most 100, or unset");
    checker.Require(spec.dpo->label_smoothing >= 0 && spec.dpo->label_smoothing < 0.5, "dpo.label_smoothing",
                    "must be at least 0 and below 0.5");
    checker.Require(!spec.data.train_on_prompt, "data.train_on_prompt", "must be false with dpo");
  }
  if (!spec.distillation) return;
  const DistillationSpec& distillation = *spec.distillation;
  checker.Require(!spec.dpo, "distillation", "must be unset with dpo");
  checker.Require(!searches, "distillation", "must be unset with text_prompt");
  checker.RequireId(distillation.teacher, "tuning_job.distillation.teacher");
  checker.RequireRangeOrUnset(distillation.top_k, 1, 1024, "distillation.top_k");
  checker.Require(distillation.temperature >= 0 && distillation.temperature <= 100, "distillation.temperature",
                  "must be above 0 and at most 100, or unset");
  checker.Require(InUnitInterval(distillation.weight.value_or(0)), "distillation.weight", "must be 0 to 1");
}

void CheckLabels(const std::map<std::string, std::string>& labels, Checker& checker) {
  checker.Require(labels.size() <= 32, "labels", "must be at most 32");
  for (const auto& [key, value] : labels) {
    checker.Require(!key.empty(), "labels", "must not have an empty key");
    checker.Require(key.size() <= 128 && value.size() <= 128, "labels", "keys and values must be at most 128 bytes");
  }
}

}  // namespace

bool IsTenant(absl::string_view tenant) {
  if (tenant.size() > 63) return false;
  for (char c : tenant) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '-') return false;
  }
  return true;
}

absl::Status ValidateJobSpec(const JobSpec& spec) {
  Checker checker;
  if (!spec.id.empty()) checker.RequireId(spec.id, "tuning_job_id");
  checker.Require(spec.display_name.size() <= 200, "display_name", "must be at most 200 bytes");
  checker.RequireId(spec.base_model, "tuning_job.base_model");
  checker.RequireId(spec.dataset, "tuning_job.dataset");
  if (!spec.validation_dataset.empty()) checker.RequireId(spec.validation_dataset, "tuning_job.validation_dataset");
  if (!spec.tuned_model_id.empty()) checker.RequireId(spec.tuned_model_id, "tuning_job.tuned_model_id");
  std::visit([&](const auto& method) { CheckMethod(method, checker); }, spec.method);
  // Blocks of 8-bit moments would hold parameters of both rates.
  const auto* lora = std::get_if<LoraSpec>(&spec.method);
  checker.Require(!lora || lora->learning_rate_ratio <= 1 || spec.hyperparameters.optimizer_state != "int8",
                  "lora.learning_rate_ratio", "needs optimizer_state \"float32\"");
  CheckHyperparameters(spec.hyperparameters, checker);
  CheckStartFrom(spec, checker);
  CheckObjective(spec, checker);
  CheckSearch(spec, checker);
  const std::string& quantization = spec.hyperparameters.quantization;
  checker.Require(quantization.empty() || quantization == "none" || !TrainsWeights(spec.method),
                  "hyperparameters.quantization", "must be \"none\" where the model's own weights train");
  checker.Require(spec.data.max_sequence_tokens == 0 || spec.data.max_sequence_tokens >= 8, "data.max_sequence_tokens",
                  "must be at least 8, or unset");
  checker.Require(std::isfinite(spec.data.validation_fraction) && spec.data.validation_fraction <= 0.5,
                  "data.validation_fraction", "must be at most 0.5");
  checker.Require(spec.priority >= -100 && spec.priority <= 100, "priority", "must be -100 to 100");
  checker.Require(IsTenant(spec.tenant), "tenant", "must be at most 63 of [a-z0-9-]");
  CheckLabels(spec.labels, checker);
  return std::move(checker).Result();
}

}  // namespace attune
