#ifndef ATTUNE_SERVER_JOBS_JOB_FIELDS_H_
#define ATTUNE_SERVER_JOBS_JOB_FIELDS_H_

#include "common/json_fields.h"
#include "server/jobs/job.h"

// The fields of a job's parts, for common/json_fields.h.
namespace attune {

void VisitFields(Is<FullSpec> auto&, auto) {}

void VisitFields(Is<PartialSpec> auto& s, auto f) {
  f("last_layers", s.last_layers);
  f("parameter_patterns", s.parameter_patterns);
  f("biases_and_norms", s.biases_and_norms);
}

void VisitFields(Is<LoraSpec> auto& s, auto f) {
  f("rank", s.rank);
  f("alpha", s.alpha);
  f("dropout", s.dropout);
  f("target_modules", s.target_modules);
  f("use_rslora", s.use_rslora);
  f("learning_rate_ratio", s.learning_rate_ratio);
  f("use_dora", s.use_dora);
  f("modules_to_save", s.modules_to_save);
}

void VisitFields(Is<SoftPromptSpec> auto& s, auto f) {
  f("num_virtual_tokens", s.num_virtual_tokens);
  f("init", s.init);
  f("init_text", s.init_text);
}

void VisitFields(Is<PrefixSpec> auto& s, auto f) {
  f("num_virtual_tokens", s.num_virtual_tokens);
  f("init", s.init);
  f("init_text", s.init_text);
}

void VisitFields(Is<Ia3Spec> auto& s, auto f) { f("target_modules", s.target_modules); }

void VisitFields(Is<TextPromptSpec> auto& s, auto f) {
  f("instructions", s.instructions);
  f("max_examples", s.max_examples);
  f("selection", s.selection);
  f("candidates", s.candidates);
  f("rounds", s.rounds);
  f("metric", s.metric);
  f("calibrate", s.calibrate);
  f("max_calls", s.max_calls);
  f("max_tokens", s.max_tokens);
  f("max_minutes", s.max_minutes);
}

void VisitFields(Is<Hyperparameters> auto& s, auto f) {
  f("epochs", s.epochs);
  f("max_steps", s.max_steps);
  f("batch_size", s.batch_size);
  f("learning_rate", s.learning_rate);
  f("learning_rate_multiplier", s.learning_rate_multiplier);
  f("schedule", s.schedule);
  f("warmup_ratio", s.warmup_ratio);
  f("weight_decay", s.weight_decay);
  f("adam_beta1", s.adam_beta1);
  f("adam_beta2", s.adam_beta2);
  f("adam_epsilon", s.adam_epsilon);
  f("max_gradient_norm", s.max_gradient_norm);
  f("micro_batch_tokens", s.micro_batch_tokens);
  f("evaluation_steps", s.evaluation_steps);
  f("early_stopping_patience", s.early_stopping_patience);
  f("keep_best", s.keep_best);
  f("checkpoint_steps", s.checkpoint_steps);
  f("max_checkpoints", s.max_checkpoints);
  f("seed", s.seed);
  f("precision", s.precision);
  f("quantization", s.quantization);
  f("optimizer_state", s.optimizer_state);
  f("neftune_noise_alpha", s.neftune_noise_alpha);
}

void VisitFields(Is<StartPoint> auto& s, auto f) {
  f("model", s.model);
  f("job", s.job);
  f("step", s.step);
}

void VisitFields(Is<DpoSpec> auto& s, auto f) {
  f("beta", s.beta);
  f("label_smoothing", s.label_smoothing);
}

void VisitFields(Is<DistillationSpec> auto& s, auto f) {
  f("teacher", s.teacher);
  f("top_k", s.top_k);
  f("temperature", s.temperature);
  f("weight", s.weight);
}

void VisitFields(Is<DataOptions> auto& s, auto f) {
  f("prompt_template", s.prompt_template);
  f("completion_template", s.completion_template);
  f("train_on_prompt", s.train_on_prompt);
  f("max_sequence_tokens", s.max_sequence_tokens);
  f("validation_fraction", s.validation_fraction);
  f("split_long_texts", s.split_long_texts);
}

void VisitFields(Is<JobSpec> auto& s, auto f) {
  f("id", s.id);
  f("display_name", s.display_name);
  f("base_model", s.base_model);
  f("dataset", s.dataset);
  f("validation_dataset", s.validation_dataset);
  f("tuned_model_id", s.tuned_model_id);
  f("method", s.method);
  f("start_from", s.start_from);
  f("dpo", s.dpo);
  f("distillation", s.distillation);
  f("hyperparameters", s.hyperparameters);
  f("data", s.data);
  f("priority", s.priority);
  f("tenant", s.tenant);
  f("labels", s.labels);
}

void VisitFields(Is<JobError> auto& s, auto f) {
  f("reason", s.reason);
  f("message", s.message);
}

void VisitFields(Is<JobProgress> auto& s, auto f) {
  f("step", s.step);
  f("total_steps", s.total_steps);
  f("epoch", s.epoch);
  f("train_loss", s.train_loss);
  f("validation_loss", s.validation_loss);
  f("best_validation_loss", s.best_validation_loss);
  f("validation_token_accuracy", s.validation_token_accuracy);
  f("trained_tokens", s.trained_tokens);
  f("tokens_per_second", s.tokens_per_second);
  f("learning_rate", s.learning_rate);
  f("gradient_norm", s.gradient_norm);
  f("eta_seconds", s.eta_seconds);
  f("validation_score", s.validation_score);
  f("peak_memory_bytes", s.peak_memory_bytes);
  f("reward_margin", s.reward_margin);
  f("preference_accuracy", s.preference_accuracy);
  f("validation_reward_margin", s.validation_reward_margin);
  f("validation_preference_accuracy", s.validation_preference_accuracy);
}

void VisitFields(Is<DataReport> auto& s, auto f) {
  f("train_examples", s.train_examples);
  f("validation_examples", s.validation_examples);
  f("train_tokens", s.train_tokens);
  f("train_loss_tokens", s.train_loss_tokens);
  f("truncated_examples", s.truncated_examples);
  f("dropped_examples", s.dropped_examples);
  f("overlapping_examples", s.overlapping_examples);
}

void VisitFields(Is<Checkpoint> auto& s, auto f) {
  f("step", s.step);
  f("train_loss", s.train_loss);
  f("validation_loss", s.validation_loss);
  f("validation_token_accuracy", s.validation_token_accuracy);
  f("size_bytes", s.size_bytes);
  f("create_time", s.create_time);
  f("best", s.best);
}

// The part of a job that JobStatusToJson is about.
void VisitFields(Is<Job> auto& s, auto f) {
  f("state_reason", s.state_reason);
  f("error", s.error);
  f("tuned_model", s.tuned_model);
  f("start_time", s.start_time);
  f("end_time", s.end_time);
  f("queue_time", s.queue_time);
  f("resolved_hyperparameters", s.resolved_hyperparameters);
  f("data_report", s.data_report);
  f("memory_bytes", s.memory_bytes);
  f("stop_requested", s.stop_requested);
}

// {"lora": {...}}.
json_fields::Json ToJson(const MethodSpec& value);
bool FromJson(const json_fields::Json& json, MethodSpec* value);

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_JOB_FIELDS_H_
