#include "server/rpc/convert_job.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/jobs/validate.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

// Optional fields, both ways.
#define ATTUNE_COPY_OPTIONAL(from, to, field) \
  if ((from).has_##field()) (to).field = (from).field()
#define ATTUNE_SET_OPTIONAL(from, to, field) \
  if ((from).field) (to).set_##field(*(from).field)

std::string Name(absl::string_view collection, absl::string_view id) {
  return id.empty() ? std::string() : absl::StrCat(collection, "/", id);
}

}  // namespace

Hyperparameters ToHyperparameters(const v1::Hyperparameters& in) {
  Hyperparameters out;
  out.epochs = in.epochs();
  out.max_steps = in.max_steps();
  out.batch_size = in.batch_size();
  out.learning_rate = in.learning_rate();
  out.learning_rate_multiplier = in.learning_rate_multiplier();
  out.schedule = static_cast<LearningRateSchedule>(in.schedule());
  ATTUNE_COPY_OPTIONAL(in, out, warmup_ratio);
  ATTUNE_COPY_OPTIONAL(in, out, weight_decay);
  ATTUNE_COPY_OPTIONAL(in, out, adam_beta1);
  ATTUNE_COPY_OPTIONAL(in, out, adam_beta2);
  ATTUNE_COPY_OPTIONAL(in, out, adam_epsilon);
  ATTUNE_COPY_OPTIONAL(in, out, max_gradient_norm);
  out.micro_batch_tokens = in.micro_batch_tokens();
  out.evaluation_steps = in.evaluation_steps();
  out.early_stopping_patience = in.early_stopping_patience();
  ATTUNE_COPY_OPTIONAL(in, out, keep_best);
  out.checkpoint_steps = in.checkpoint_steps();
  out.max_checkpoints = in.max_checkpoints();
  ATTUNE_COPY_OPTIONAL(in, out, seed);
  out.precision = in.precision();
  out.quantization = in.quantization();
  out.optimizer_state = in.optimizer_state();
  out.neftune_noise_alpha = in.neftune_noise_alpha();
  return out;
}

v1::Hyperparameters ToProto(const Hyperparameters& in) {
  v1::Hyperparameters out;
  out.set_epochs(in.epochs);
  out.set_max_steps(in.max_steps);
  out.set_batch_size(in.batch_size);
  out.set_learning_rate(in.learning_rate);
  out.set_learning_rate_multiplier(in.learning_rate_multiplier);
  out.set_schedule(static_cast<v1::LearningRateSchedule>(in.schedule));
  ATTUNE_SET_OPTIONAL(in, out, warmup_ratio);
  ATTUNE_SET_OPTIONAL(in, out, weight_decay);
  ATTUNE_SET_OPTIONAL(in, out, adam_beta1);
  ATTUNE_SET_OPTIONAL(in, out, adam_beta2);
  ATTUNE_SET_OPTIONAL(in, out, adam_epsilon);
  ATTUNE_SET_OPTIONAL(in, out, max_gradient_norm);
  out.set_micro_batch_tokens(in.micro_batch_tokens);
  out.set_evaluation_steps(in.evaluation_steps);
  out.set_early_stopping_patience(in.early_stopping_patience);
  ATTUNE_SET_OPTIONAL(in, out, keep_best);
  out.set_checkpoint_steps(in.checkpoint_steps);
  out.set_max_checkpoints(in.max_checkpoints);
  ATTUNE_SET_OPTIONAL(in, out, seed);
  out.set_precision(in.precision);
  out.set_quantization(in.quantization);
  out.set_optimizer_state(in.optimizer_state);
  out.set_neftune_noise_alpha(in.neftune_noise_alpha);
  return out;
}

namespace {

TextPromptSpec ToTextPromptSpec(const v1::TextPromptSearch& in) {
  TextPromptSpec out;
  out.instructions.assign(in.instructions().begin(), in.instructions().end());
  ATTUNE_COPY_OPTIONAL(in, out, max_examples);
  out.selection = static_cast<TextPromptSpec::Selection>(in.example_selection());
  out.candidates = in.candidates();
  out.rounds = in.rounds();
  out.metric = static_cast<TextPromptSpec::Metric>(in.metric());
  ATTUNE_COPY_OPTIONAL(in, out, calibrate);
  out.max_calls = in.max_calls();
  out.max_tokens = in.max_tokens();
  out.max_minutes = in.max_minutes();
  return out;
}

std::vector<TargetModule> ToModules(const google::protobuf::RepeatedField<int>& in) {
  std::vector<TargetModule> out;
  for (int module : in) out.push_back(static_cast<TargetModule>(module));
  return out;
}

absl::StatusOr<MethodSpec> ToMethod(const v1::TuningJob& job) {
  switch (job.method_case()) {
    case v1::TuningJob::kFull:
      return FullSpec{};
    case v1::TuningJob::kPartial: {
      const auto& in = job.partial();
      return PartialSpec{in.last_layers(), {in.parameter_patterns().begin(), in.parameter_patterns().end()},
                         in.biases_and_norms()};
    }
    case v1::TuningJob::kLora: {
      const auto& in = job.lora();
      LoraSpec out;
      out.rank = in.rank();
      out.alpha = in.alpha();
      ATTUNE_COPY_OPTIONAL(in, out, dropout);
      out.target_modules = ToModules(in.target_modules());
      out.modules_to_save = ToModules(in.modules_to_save());
      out.use_rslora = in.use_rslora();
      out.learning_rate_ratio = in.learning_rate_ratio();
      out.use_dora = in.use_dora();
      return out;
    }
    case v1::TuningJob::kSoftPrompt: {
      const auto& in = job.soft_prompt();
      return SoftPromptSpec{in.num_virtual_tokens(), static_cast<SoftPromptSpec::Init>(in.init()), in.init_text()};
    }
    case v1::TuningJob::kPrefix: {
      const auto& in = job.prefix();
      return PrefixSpec{in.num_virtual_tokens(), static_cast<SoftPromptSpec::Init>(in.init()), in.init_text()};
    }
    case v1::TuningJob::kIa3:
      return Ia3Spec{ToModules(job.ia3().target_modules())};
    case v1::TuningJob::kTextPrompt:
      return ToTextPromptSpec(job.text_prompt());
    case v1::TuningJob::METHOD_NOT_SET:
      break;
  }
  return InvalidField("tuning_job.method", "must be one of full, partial, lora, soft_prompt, prefix, ia3 and text_prompt");
}

void SetMethod(const FullSpec&, v1::TuningJob* job) { job->mutable_full(); }

void SetMethod(const PartialSpec& in, v1::TuningJob* job) {
  auto* out = job->mutable_partial();
  out->set_last_layers(in.last_layers);
  for (const std::string& pattern : in.parameter_patterns) out->add_parameter_patterns(pattern);
  out->set_biases_and_norms(in.biases_and_norms);
}

void SetMethod(const LoraSpec& in, v1::TuningJob* job) {
  auto* out = job->mutable_lora();
  out->set_rank(in.rank);
  out->set_alpha(in.alpha);
  ATTUNE_SET_OPTIONAL(in, *out, dropout);
  for (TargetModule module : in.target_modules) out->add_target_modules(static_cast<v1::TargetModule>(module));
  out->set_use_rslora(in.use_rslora);
  out->set_learning_rate_ratio(in.learning_rate_ratio);
  out->set_use_dora(in.use_dora);
  for (TargetModule module : in.modules_to_save) out->add_modules_to_save(static_cast<v1::TargetModule>(module));
}

void SetMethod(const SoftPromptSpec& in, v1::TuningJob* job) {
  auto* out = job->mutable_soft_prompt();
  out->set_num_virtual_tokens(in.num_virtual_tokens);
  out->set_init(static_cast<v1::SoftPromptTuning::Init>(in.init));
  out->set_init_text(in.init_text);
}

void SetMethod(const PrefixSpec& in, v1::TuningJob* job) {
  auto* out = job->mutable_prefix();
  out->set_num_virtual_tokens(in.num_virtual_tokens);
  out->set_init(static_cast<v1::SoftPromptTuning::Init>(in.init));
  out->set_init_text(in.init_text);
}

void SetMethod(const Ia3Spec& in, v1::TuningJob* job) {
  auto* out = job->mutable_ia3();
  for (TargetModule module : in.target_modules) out->add_target_modules(static_cast<v1::TargetModule>(module));
}

void SetMethod(const TextPromptSpec& in, v1::TuningJob* job) {
  auto* out = job->mutable_text_prompt();
  for (const std::string& instruction : in.instructions) out->add_instructions(instruction);
  ATTUNE_SET_OPTIONAL(in, *out, max_examples);
  out->set_example_selection(static_cast<v1::TextPromptSearch::ExampleSelection>(in.selection));
  out->set_candidates(in.candidates);
  out->set_rounds(in.rounds);
  out->set_metric(static_cast<v1::TextPromptSearch::Metric>(in.metric));
  ATTUNE_SET_OPTIONAL(in, *out, calibrate);
  out->set_max_calls(in.max_calls);
  out->set_max_tokens(in.max_tokens);
  out->set_max_minutes(in.max_minutes);
}

// "models/{id}" or "tuningJobs/{job}/checkpoints/{step}".
absl::StatusOr<StartPoint> ToStartPoint(const std::string& name) {
  constexpr char kField[] = "tuning_job.start_from";
  StartPoint start;
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() == 4 && parts[0] == kTuningJobs && parts[2] == "checkpoints") {
    ATTUNE_ASSIGN_OR_RETURN(start.job, ParseName(kTuningJobs, absl::StrCat(parts[0], "/", parts[1]), kField));
    if (absl::SimpleAtoi(parts[3], &start.step) && start.step > 0) return start;
    return InvalidField(kField, absl::StrCat("'", parts[3], "' is no checkpoint's step"));
  }
  if (parts[0] == kModels) {
    ATTUNE_ASSIGN_OR_RETURN(start.model, ParseName(kModels, name, kField));
    return start;
  }
  return InvalidField(kField, "must be models/{id} or tuningJobs/{job}/checkpoints/{step}");
}

std::string StartPointName(const StartPoint& start) {
  if (!start.model.empty()) return Name(kModels, start.model);
  return absl::StrCat(Name(kTuningJobs, start.job), "/checkpoints/", start.step);
}

absl::Status ToObjective(const v1::TuningJob& job, JobSpec* spec) {
  if (job.has_dpo()) spec->dpo = DpoSpec{job.dpo().beta(), job.dpo().label_smoothing()};
  if (!job.has_distillation()) return absl::OkStatus();
  const v1::Distillation& in = job.distillation();
  DistillationSpec& out = spec->distillation.emplace();
  ATTUNE_ASSIGN_OR_RETURN(out.teacher, ParseName(kModels, in.teacher(), "tuning_job.distillation.teacher"));
  out.top_k = in.top_k();
  out.temperature = in.temperature();
  ATTUNE_COPY_OPTIONAL(in, out, weight);
  return absl::OkStatus();
}

void SetObjective(const JobSpec& spec, v1::TuningJob* job) {
  if (spec.dpo) {
    job->mutable_dpo()->set_beta(spec.dpo->beta);
    job->mutable_dpo()->set_label_smoothing(spec.dpo->label_smoothing);
  }
  if (!spec.distillation) return;
  v1::Distillation& out = *job->mutable_distillation();
  out.set_teacher(Name(kModels, spec.distillation->teacher));
  out.set_top_k(spec.distillation->top_k);
  out.set_temperature(spec.distillation->temperature);
  ATTUNE_SET_OPTIONAL(*spec.distillation, out, weight);
}

#undef ATTUNE_COPY_OPTIONAL
#undef ATTUNE_SET_OPTIONAL

}  // namespace

v1::DataOptions ToProto(const DataOptions& in) {
  v1::DataOptions out;
  out.set_prompt_template(in.prompt_template);
  out.set_completion_template(in.completion_template);
  out.set_train_on_prompt(in.train_on_prompt);
  out.set_max_sequence_tokens(in.max_sequence_tokens);
  out.set_validation_fraction(in.validation_fraction);
  out.set_split_long_texts(in.split_long_texts);
  return out;
}

namespace {

v1::JobProgress ToProto(const JobProgress& in) {
  v1::JobProgress out;
  out.set_step(in.step);
  out.set_total_steps(in.total_steps);
  out.set_epoch(in.epoch);
  out.set_train_loss(in.train_loss);
  out.set_validation_loss(in.validation_loss);
  out.set_best_validation_loss(in.best_validation_loss);
  out.set_validation_token_accuracy(in.validation_token_accuracy);
  out.set_trained_tokens(in.trained_tokens);
  out.set_tokens_per_second(in.tokens_per_second);
  out.set_learning_rate(in.learning_rate);
  out.set_gradient_norm(in.gradient_norm);
  out.set_eta_seconds(in.eta_seconds);
  out.set_validation_score(in.validation_score);
  out.set_peak_memory_bytes(in.peak_memory_bytes);
  out.set_reward_margin(in.reward_margin);
  out.set_preference_accuracy(in.preference_accuracy);
  out.set_validation_reward_margin(in.validation_reward_margin);
  out.set_validation_preference_accuracy(in.validation_preference_accuracy);
  return out;
}

v1::DataReport ToProto(const DataReport& in) {
  v1::DataReport out;
  out.set_train_examples(in.train_examples);
  out.set_validation_examples(in.validation_examples);
  out.set_train_tokens(in.train_tokens);
  out.set_train_loss_tokens(in.train_loss_tokens);
  out.set_truncated_examples(in.truncated_examples);
  out.set_dropped_examples(in.dropped_examples);
  out.set_overlapping_examples(in.overlapping_examples);
  return out;
}

}  // namespace

absl::StatusOr<JobSpec> ToJobSpec(const v1::TuningJob& job, absl::string_view id) {
  JobSpec spec;
  spec.id = std::string(id);
  spec.display_name = job.display_name();
  ATTUNE_ASSIGN_OR_RETURN(spec.base_model, ParseName(kModels, job.base_model(), "tuning_job.base_model"));
  ATTUNE_ASSIGN_OR_RETURN(spec.dataset, ParseName(kDatasets, job.dataset(), "tuning_job.dataset"));
  if (!job.validation_dataset().empty()) {
    ATTUNE_ASSIGN_OR_RETURN(spec.validation_dataset,
                            ParseName(kDatasets, job.validation_dataset(), "tuning_job.validation_dataset"));
  }
  spec.tuned_model_id = std::string(absl::StripPrefix(job.tuned_model_id(), "models/"));
  ATTUNE_ASSIGN_OR_RETURN(spec.method, ToMethod(job));
  if (!job.start_from().empty()) {
    ATTUNE_ASSIGN_OR_RETURN(spec.start_from, ToStartPoint(job.start_from()));
  }
  ATTUNE_RETURN_IF_ERROR(ToObjective(job, &spec));
  spec.hyperparameters = ToHyperparameters(job.hyperparameters());
  spec.data = ToDataOptions(job.data());
  spec.priority = job.priority();
  spec.tenant = job.tenant();
  spec.labels = ToMap(job.labels());
  ATTUNE_RETURN_IF_ERROR(ValidateJobSpec(spec));
  ATTUNE_RETURN_IF_ERROR(CheckDataOptions(job.data(), "tuning_job.data"));
  return spec;
}

v1::TuningJob ToProto(const Job& job) {
  const JobSpec& spec = job.spec;
  v1::TuningJob out;
  out.set_name(Name(kTuningJobs, spec.id));
  out.set_display_name(spec.display_name);
  out.set_base_model(Name(kModels, spec.base_model));
  out.set_dataset(Name(kDatasets, spec.dataset));
  out.set_validation_dataset(Name(kDatasets, spec.validation_dataset));
  out.set_tuned_model_id(spec.tuned_model_id);
  std::visit([&](const auto& method) { SetMethod(method, &out); }, spec.method);
  if (spec.start_from) out.set_start_from(StartPointName(*spec.start_from));
  SetObjective(spec, &out);
  *out.mutable_hyperparameters() = ToProto(spec.hyperparameters);
  *out.mutable_data() = ToProto(spec.data);
  out.set_priority(spec.priority);
  out.set_tenant(spec.tenant);
  out.mutable_labels()->insert(spec.labels.begin(), spec.labels.end());

  out.set_state(static_cast<v1::TuningJob::State>(job.state));
  out.set_state_reason(job.state_reason);
  if (job.error) {
    out.mutable_error()->set_reason(job.error->reason);
    out.mutable_error()->set_message(job.error->message);
  }
  *out.mutable_progress() = ToProto(job.progress);
  out.set_tuned_model(Name(kModels, job.tuned_model));
  *out.mutable_create_time() = ToTimestamp(job.create_time);
  if (job.start_time) *out.mutable_start_time() = ToTimestamp(*job.start_time);
  if (job.end_time) *out.mutable_end_time() = ToTimestamp(*job.end_time);
  out.set_etag(job.etag);
  if (job.resolved_hyperparameters) {
    *out.mutable_resolved_hyperparameters() = ToProto(*job.resolved_hyperparameters);
  }
  if (job.data_report) *out.mutable_data_report() = ToProto(*job.data_report);
  out.set_training_seconds(job.training_seconds);
  if (job.energy_joules) out.set_energy_joules(*job.energy_joules);
  return out;
}

v1::Checkpoint ToProto(const Checkpoint& checkpoint, absl::string_view job_id) {
  v1::Checkpoint out;
  out.set_name(absl::StrCat(Name(kTuningJobs, job_id), "/checkpoints/", checkpoint.step));
  out.set_step(checkpoint.step);
  out.set_train_loss(checkpoint.train_loss);
  out.set_validation_loss(checkpoint.validation_loss);
  out.set_validation_token_accuracy(checkpoint.validation_token_accuracy);
  out.set_size_bytes(checkpoint.size_bytes);
  *out.mutable_create_time() = ToTimestamp(checkpoint.create_time);
  out.set_best(checkpoint.best);
  return out;
}

v1::JobEvent ToProto(const JobEvent& event, absl::string_view job_id) {
  v1::JobEvent out;
  out.set_sequence(event.sequence);
  *out.mutable_time() = ToTimestamp(event.time);
  out.set_type(static_cast<v1::JobEvent::Type>(event.type));
  out.set_state(static_cast<v1::TuningJob::State>(event.state));
  out.set_message(event.message);
  if (event.progress) *out.mutable_progress() = ToProto(*event.progress);
  if (event.checkpoint) *out.mutable_checkpoint() = ToProto(*event.checkpoint, job_id);
  return out;
}

v1::EstimateTuningJobResponse ToProto(const JobManager::Estimate& in) {
  v1::EstimateTuningJobResponse out;
  out.set_total_steps(in.estimate.total_steps);
  out.set_trainable_parameters(in.estimate.trainable_parameters);
  out.set_peak_memory_bytes(in.estimate.peak_memory_bytes);
  out.set_available_memory_bytes(in.available_memory_bytes);
  out.set_duration_seconds(in.estimate.duration_seconds);
  *out.mutable_data_report() = ToProto(in.estimate.data_report);
  *out.mutable_resolved_hyperparameters() = ToProto(in.estimate.resolved_hyperparameters);
  out.set_admissible(in.admissible);
  return out;
}

}  // namespace attune
