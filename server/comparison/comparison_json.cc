#include "server/comparison/comparison_json.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/json_fields.h"
#include "server/jobs/job_fields.h"

namespace attune {

void VisitFields(Is<ComparisonSpec> auto& s, auto f) {
  f("id", s.id);
  f("display_name", s.display_name);
  f("base_model", s.base_model);
  f("dataset", s.dataset);
  f("validation_dataset", s.validation_dataset);
  f("test_dataset", s.test_dataset);
  f("contenders", s.contenders);
  f("hand_prompt", s.hand_prompt);
  f("metric", s.metric);
  f("pattern", s.pattern);
  f("judge_model", s.judge_model);
  f("judge_prompt", s.judge_prompt);
  f("max_answer_tokens", s.max_answer_tokens);
  f("retention_dataset", s.retention_dataset);
  f("learning_curve", s.learning_curve);
  f("max_trials", s.max_trials);
  f("max_train_examples", s.max_train_examples);
  f("max_test_examples", s.max_test_examples);
  f("test_fraction", s.test_fraction);
  f("hyperparameters", s.hyperparameters);
  f("data", s.data);
  f("seed", s.seed);
  f("skip_side_effects", s.skip_side_effects);
  f("keep_models", s.keep_models);
  f("price_per_device_hour", s.price_per_device_hour);
  f("tenant", s.tenant);
  f("labels", s.labels);
}

void VisitFields(Is<Measure> auto& s, auto f) {
  f("name", s.name);
  f("value", s.value);
  f("lower", s.lower);
  f("upper", s.upper);
  f("count", s.count);
}

void VisitFields(Is<Trial> auto& s, auto f) {
  f("state", s.state);
  f("settings", s.settings);
  f("rate_multiplier", s.rate_multiplier);
  f("size_multiplier", s.size_multiplier);
  f("tuning_job", s.tuning_job);
  f("model", s.model);
  f("validation", s.validation);
  f("device_seconds", s.device_seconds);
  f("energy_joules", s.energy_joules);
  f("memory_bytes", s.memory_bytes);
  f("error", s.error);
}

void VisitFields(Is<CurveTrial> auto& s, auto f) {
  f("examples", s.examples);
  f("trial", s.trial);
}

void VisitFields(Is<Contender> auto& s, auto f) {
  f("kind", s.kind);
  f("state", s.state);
  f("note", s.note);
  f("trials", s.trials);
  f("best_trial", s.best_trial);
  f("model", s.model);
  f("prompt_template", s.prompt_template);
  f("curve", s.curve);
  f("measures", s.measures);
  f("rank", s.rank);
  f("p_value", s.p_value);
  f("ties_best", s.ties_best);
}

void VisitFields(Is<Disagreement> auto& s, auto f) {
  f("prompt", s.prompt);
  f("expected", s.expected);
  f("answers", s.answers);
}

void VisitFields(Is<Comparison> auto& s, auto f) {
  f("spec", s.spec);
  f("state", s.state);
  f("state_reason", s.state_reason);
  f("error", s.error);
  f("metric", s.metric);
  f("contenders", s.contenders);
  f("train_examples", s.train_examples);
  f("validation_examples", s.validation_examples);
  f("test_examples", s.test_examples);
  f("choices", s.choices);
  f("disagreements", s.disagreements);
  f("winner", s.winner);
  f("verdict", s.verdict);
  f("create_time", s.create_time);
  f("start_time", s.start_time);
  f("end_time", s.end_time);
  f("prefix", s.prefix);
  f("version", s.version);
  f("cancel_requested", s.cancel_requested);
}

std::string ComparisonSpecToJson(const ComparisonSpec& spec) { return json_fields::ToText(spec); }

std::string ComparisonToJson(const Comparison& comparison) { return json_fields::ToText(comparison); }

absl::StatusOr<Comparison> ComparisonFromJson(absl::string_view text) {
  Comparison comparison;
  if (json_fields::FromText(text, &comparison)) return comparison;
  return MakeError(absl::StatusCode::kDataLoss, "CORRUPT_COMPARISON",
                   absl::StrCat("A comparison's record in the database cannot be read: ", text.substr(0, 200)));
}

}  // namespace attune
