#include "server/comparison/report/report_command.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace attune {
namespace {

using Options = std::vector<std::pair<std::string, std::string>>;

absl::string_view ScheduleName(LearningRateSchedule schedule) {
  switch (schedule) {
    case LearningRateSchedule::kCosine:
      return "cosine";
    case LearningRateSchedule::kLinear:
      return "linear";
    case LearningRateSchedule::kConstant:
      return "constant";
    case LearningRateSchedule::kUnspecified:
      break;
  }
  return "";
}

template <typename T>
void AddUnlessZero(absl::string_view name, T value, Options* options) {
  if (value != 0) options->emplace_back(name, absl::StrCat(value));
}

void AddUnlessEmpty(absl::string_view name, absl::string_view value, Options* options) {
  if (!value.empty()) options->emplace_back(name, value);
}

template <typename T>
void AddIfSet(absl::string_view name, const std::optional<T>& value, Options* options) {
  if (value.has_value()) options->emplace_back(name, absl::StrCat(*value));
}

// As the command line's templates are written: on one line.
std::string WrittenTemplate(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\n", "\\n"}, {"\t", "\\t"}, {"\r", "\\r"}});
}

std::string Methods(const Comparison& comparison) {
  std::vector<std::string> names;
  for (const Contender& contender : comparison.contenders) names.emplace_back(ContenderName(contender.kind));
  if (names.empty()) {
    for (ContenderKind kind : comparison.spec.contenders) names.emplace_back(ContenderName(kind));
  }
  return absl::StrReplaceAll(absl::StrJoin(names, ","), {{"_", "-"}});
}

void AddData(const ComparisonSpec& spec, Options* options) {
  AddUnlessEmpty("validation", spec.validation_dataset, options);
  AddUnlessEmpty("test", spec.test_dataset, options);
  AddUnlessEmpty("template", WrittenTemplate(spec.data.prompt_template), options);
  AddUnlessEmpty("completion-template", WrittenTemplate(spec.data.completion_template), options);
  AddUnlessZero("max-tokens", spec.data.max_sequence_tokens, options);
  if (spec.test_dataset.empty()) AddUnlessZero("test-fraction", spec.test_fraction ? spec.test_fraction : 0.2, options);
  AddUnlessZero("train-examples", spec.max_train_examples, options);
  AddUnlessZero("test-examples", spec.max_test_examples, options);
}

void AddFlags(const ComparisonSpec& spec, std::vector<std::string>* lines) {
  if (spec.learning_curve) lines->push_back("--learning-curve");
  if (spec.skip_side_effects) lines->push_back("--skip-side-effects");
  if (spec.keep_models) lines->push_back("--keep-models");
}

}  // namespace

std::vector<std::pair<std::string, std::string>> SetHyperparameters(const Hyperparameters& h) {
  Options options;
  AddUnlessZero("epochs", h.epochs, &options);
  AddUnlessZero("max-steps", h.max_steps, &options);
  AddUnlessZero("batch-size", h.batch_size, &options);
  AddUnlessZero("learning-rate", h.learning_rate, &options);
  AddUnlessZero("learning-rate-multiplier", h.learning_rate_multiplier, &options);
  AddUnlessEmpty("schedule", ScheduleName(h.schedule), &options);
  AddIfSet("warmup-ratio", h.warmup_ratio, &options);
  AddIfSet("weight-decay", h.weight_decay, &options);
  AddIfSet("adam-beta1", h.adam_beta1, &options);
  AddIfSet("adam-beta2", h.adam_beta2, &options);
  AddIfSet("adam-epsilon", h.adam_epsilon, &options);
  AddIfSet("max-grad-norm", h.max_gradient_norm, &options);
  AddUnlessZero("micro-batch-tokens", h.micro_batch_tokens, &options);
  AddUnlessZero("eval-steps", h.evaluation_steps, &options);
  AddUnlessZero("patience", h.early_stopping_patience, &options);
  AddUnlessEmpty("precision", h.precision, &options);
  AddUnlessEmpty("quantize", h.quantization, &options);
  AddUnlessEmpty("optimizer-state", h.optimizer_state, &options);
  return options;
}

std::string ShellWord(absl::string_view text) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || absl::StrContains("-_./,:=+", c);
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return std::string(text);
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::string CompareCommand(const Comparison& comparison) {
  const ComparisonSpec& spec = comparison.spec;
  Options options = {{"base", spec.base_model}, {"data", spec.dataset}};
  AddUnlessEmpty("methods", Methods(comparison), &options);
  AddUnlessZero("trials", spec.max_trials ? spec.max_trials : 2, &options);
  options.emplace_back("seed", absl::StrCat(spec.seed.value_or(42)));
  AddUnlessEmpty("metric", absl::StrReplaceAll(MetricName(comparison.metric), {{"_", "-"}}), &options);
  AddUnlessEmpty("pattern", spec.pattern, &options);
  AddUnlessEmpty("judge", spec.judge_model, &options);
  AddUnlessEmpty("judge-prompt", WrittenTemplate(spec.judge_prompt), &options);
  AddUnlessZero("max-answer-tokens", spec.max_answer_tokens, &options);
  AddUnlessEmpty("retention", spec.retention_dataset, &options);
  AddData(spec, &options);
  AddUnlessEmpty("hand-prompt", WrittenTemplate(spec.hand_prompt), &options);
  // The command has no options for the others; the page's table of settings shows them.
  AddUnlessZero("epochs", spec.hyperparameters.epochs, &options);
  AddUnlessZero("batch-size", spec.hyperparameters.batch_size, &options);
  AddUnlessZero("learning-rate", spec.hyperparameters.learning_rate, &options);
  AddUnlessZero("price", spec.price_per_device_hour, &options);
  std::vector<std::string> lines = {"attune compare"};
  for (const auto& [name, value] : options) lines.push_back(absl::StrCat("--", name, " ", ShellWord(value)));
  AddFlags(spec, &lines);
  return absl::StrJoin(lines, " \\\n  ");
}

}  // namespace attune
