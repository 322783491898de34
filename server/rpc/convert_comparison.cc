#include "server/rpc/convert_comparison.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/jobs/validate.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_job.h"

namespace attune {
namespace {

std::string Name(absl::string_view collection, absl::string_view id) {
  return id.empty() ? "" : absl::StrCat(collection, "/", id);
}

absl::StatusOr<std::string> OptionalName(absl::string_view collection, const std::string& name,
                                         absl::string_view field) {
  if (name.empty()) return std::string();
  return ParseName(collection, name, field);
}

v1::Comparison::Measure ToProto(const Measure& in) {
  v1::Comparison::Measure out;
  out.set_name(in.name);
  out.set_value(in.value);
  out.set_lower(in.lower);
  out.set_upper(in.upper);
  out.set_count(in.count);
  return out;
}

v1::Comparison::Trial ToProto(const Trial& in) {
  v1::Comparison::Trial out;
  out.set_state(static_cast<v1::Comparison::Trial::State>(in.state));
  out.set_settings(in.settings);
  out.set_tuning_job(Name(kTuningJobs, in.tuning_job));
  out.set_model(Name(kModels, in.model));
  if (in.state == Trial::State::kDone) *out.mutable_validation() = ToProto(in.validation);
  out.set_device_seconds(in.device_seconds);
  out.set_error(in.error);
  out.set_memory_bytes(in.memory_bytes);
  if (in.energy_joules) out.set_energy_joules(*in.energy_joules);
  return out;
}

v1::Comparison::CurvePoint ToProto(const CurveTrial& in) {
  v1::Comparison::CurvePoint out;
  out.set_examples(in.examples);
  *out.mutable_trial() = ToProto(in.trial);
  return out;
}

v1::Comparison::Contender ToProto(const Contender& in) {
  v1::Comparison::Contender out;
  out.set_kind(static_cast<v1::Comparison::ContenderKind>(in.kind));
  out.set_state(static_cast<v1::Comparison::Contender::State>(in.state));
  out.set_note(in.note);
  for (const Trial& trial : in.trials) *out.add_trials() = ToProto(trial);
  out.set_best_trial(in.best_trial);
  out.set_model(Name(kModels, in.model));
  out.set_prompt_template(in.prompt_template);
  for (const Measure& measure : in.measures) *out.add_measures() = ToProto(measure);
  out.set_rank(in.rank);
  out.set_p_value(in.p_value);
  out.set_ties_best(in.ties_best);
  for (const CurveTrial& point : in.curve) *out.add_curve() = ToProto(point);
  return out;
}

// A job's error as the comparison's own: its request has no tuning_job.
absl::Status OfComparison(const absl::Status& status) {
  if (status.ok()) return status;
  const auto rename = [](absl::string_view text) { return absl::StrReplaceAll(text, {{"tuning_job.", "comparison."}}); };
  ErrorDetails details = GetErrorDetails(status);
  for (FieldViolation& violation : details.violations) violation.field = rename(violation.field);
  return MakeError(status.code(), details.reason, rename(status.message()), details.metadata, details.violations);
}

// A job's checks of hyperparameters, data options, tenant and labels are a comparison's, too.
absl::Status CheckAsJob(const ComparisonSpec& spec) {
  JobSpec job;
  job.base_model = spec.base_model;
  job.dataset = spec.dataset;
  job.method = LoraSpec();
  job.hyperparameters = spec.hyperparameters;
  job.data = spec.data;
  job.tenant = spec.tenant;
  job.labels = spec.labels;
  return OfComparison(ValidateJobSpec(job));
}

void SetSpec(const ComparisonSpec& spec, v1::Comparison* out) {
  out->set_name(Name(kComparisons, spec.id));
  out->set_display_name(spec.display_name);
  out->set_base_model(Name(kModels, spec.base_model));
  out->set_dataset(Name(kDatasets, spec.dataset));
  out->set_validation_dataset(Name(kDatasets, spec.validation_dataset));
  out->set_test_dataset(Name(kDatasets, spec.test_dataset));
  for (ContenderKind kind : spec.contenders) out->add_contenders(static_cast<v1::Comparison::ContenderKind>(kind));
  out->set_hand_prompt(spec.hand_prompt);
  out->set_max_trials(spec.max_trials);
  out->set_max_train_examples(spec.max_train_examples);
  out->set_max_test_examples(spec.max_test_examples);
  out->set_test_fraction(spec.test_fraction);
  *out->mutable_hyperparameters() = ToProto(spec.hyperparameters);
  *out->mutable_data() = ToProto(spec.data);
  if (spec.seed) out->set_seed(*spec.seed);
  out->set_skip_side_effects(spec.skip_side_effects);
  out->set_keep_models(spec.keep_models);
  out->set_price_per_device_hour(spec.price_per_device_hour);
  out->set_tenant(spec.tenant);
  out->mutable_labels()->insert(spec.labels.begin(), spec.labels.end());
  out->set_pattern(spec.pattern);
  out->set_judge_model(Name(kModels, spec.judge_model));
  out->set_judge_prompt(spec.judge_prompt);
  out->set_max_answer_tokens(spec.max_answer_tokens);
  out->set_retention_dataset(Name(kDatasets, spec.retention_dataset));
  out->set_learning_curve(spec.learning_curve);
}

}  // namespace

absl::StatusOr<ComparisonSpec> ToComparisonSpec(const v1::Comparison& in, absl::string_view id) {
  ComparisonSpec out;
  out.id = std::string(id);
  out.display_name = in.display_name();
  ATTUNE_ASSIGN_OR_RETURN(out.base_model, ParseName(kModels, in.base_model(), "comparison.base_model"));
  ATTUNE_ASSIGN_OR_RETURN(out.dataset, ParseName(kDatasets, in.dataset(), "comparison.dataset"));
  ATTUNE_ASSIGN_OR_RETURN(out.validation_dataset,
                          OptionalName(kDatasets, in.validation_dataset(), "comparison.validation_dataset"));
  ATTUNE_ASSIGN_OR_RETURN(out.test_dataset, OptionalName(kDatasets, in.test_dataset(), "comparison.test_dataset"));
  for (int kind : in.contenders()) out.contenders.push_back(static_cast<ContenderKind>(kind));
  if (!v1::Comparison::Metric_IsValid(in.metric())) return InvalidField("comparison.metric", "is no known metric");
  ATTUNE_RETURN_IF_ERROR(CheckDataOptions(in.data(), "comparison.data"));
  out.hand_prompt = in.hand_prompt();
  out.metric = static_cast<QualityMetric>(in.metric());
  out.pattern = in.pattern();
  ATTUNE_ASSIGN_OR_RETURN(out.judge_model, OptionalName(kModels, in.judge_model(), "comparison.judge_model"));
  out.judge_prompt = in.judge_prompt();
  out.max_answer_tokens = in.max_answer_tokens();
  ATTUNE_ASSIGN_OR_RETURN(out.retention_dataset,
                          OptionalName(kDatasets, in.retention_dataset(), "comparison.retention_dataset"));
  out.learning_curve = in.learning_curve();
  out.max_trials = in.max_trials();
  out.max_train_examples = in.max_train_examples();
  out.max_test_examples = in.max_test_examples();
  out.test_fraction = in.test_fraction();
  out.hyperparameters = ToHyperparameters(in.hyperparameters());
  out.data = ToDataOptions(in.data());
  if (in.has_seed()) out.seed = in.seed();
  out.skip_side_effects = in.skip_side_effects();
  out.keep_models = in.keep_models();
  out.price_per_device_hour = in.price_per_device_hour();
  out.tenant = in.tenant();
  out.labels = ToMap(in.labels());
  ATTUNE_RETURN_IF_ERROR(CheckAsJob(out));
  return out;
}

v1::Comparison ToProto(const Comparison& in) {
  v1::Comparison out;
  SetSpec(in.spec, &out);
  // Until the data was looked at: what was asked for.
  const QualityMetric metric = in.metric == QualityMetric::kAuto ? in.spec.metric : in.metric;
  out.set_metric(static_cast<v1::Comparison::Metric>(metric));
  out.set_state(static_cast<v1::Comparison::State>(in.state));
  out.set_state_reason(in.state_reason);
  if (in.error) {
    out.mutable_error()->set_reason(in.error->reason);
    out.mutable_error()->set_message(in.error->message);
  }
  for (const Contender& contender : in.contenders) *out.add_results() = ToProto(contender);
  out.set_train_examples(in.train_examples);
  out.set_validation_examples(in.validation_examples);
  out.set_test_examples(in.test_examples);
  for (const std::string& choice : in.choices) out.add_choices(choice);
  for (const Disagreement& disagreement : in.disagreements) {
    auto* one = out.add_disagreements();
    one->set_prompt(disagreement.prompt);
    one->set_expected(disagreement.expected);
    one->mutable_answers()->insert(disagreement.answers.begin(), disagreement.answers.end());
  }
  if (in.winner >= 0) {
    out.set_winner(static_cast<v1::Comparison::ContenderKind>(in.contenders[in.winner].kind));
    out.set_winner_model(Name(kModels, in.contenders[in.winner].model));
  }
  out.set_verdict(in.verdict);
  *out.mutable_create_time() = ToTimestamp(in.create_time);
  if (in.start_time) *out.mutable_start_time() = ToTimestamp(*in.start_time);
  if (in.end_time) *out.mutable_end_time() = ToTimestamp(*in.end_time);
  out.set_version(in.version);
  return out;
}

}  // namespace attune
