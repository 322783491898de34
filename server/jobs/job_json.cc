#include "server/jobs/job_json.h"

#include <cmath>
#include <concepts>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::json;

// `Is<S, T>`: S is T or const T, so that one list of fields serves both ways.
template <typename S, typename T>
concept Is = std::same_as<std::remove_const_t<S>, T>;

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
}

void VisitFields(Is<SoftPromptSpec> auto& s, auto f) {
  f("num_virtual_tokens", s.num_virtual_tokens);
  f("init", s.init);
  f("init_text", s.init_text);
}

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
}

void VisitFields(Is<DataOptions> auto& s, auto f) {
  f("prompt_template", s.prompt_template);
  f("completion_template", s.completion_template);
  f("train_on_prompt", s.train_on_prompt);
  f("max_sequence_tokens", s.max_sequence_tokens);
  f("validation_fraction", s.validation_fraction);
}

void VisitFields(Is<JobSpec> auto& s, auto f) {
  f("id", s.id);
  f("display_name", s.display_name);
  f("base_model", s.base_model);
  f("dataset", s.dataset);
  f("validation_dataset", s.validation_dataset);
  f("tuned_model_id", s.tuned_model_id);
  f("method", s.method);
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

// JSON has no NaN and no infinity: they are written as text.
Json ToJson(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}
Json ToJson(const std::string& value) { return value; }
Json ToJson(const std::vector<std::string>& value) { return value; }
Json ToJson(const std::map<std::string, std::string>& value) { return value; }
Json ToJson(const absl::Time& value) { return absl::ToUnixMicros(value); }
template <typename T>
  requires std::integral<T> || std::is_enum_v<T>
Json ToJson(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else {
    return value;
  }
}
Json ToJson(const std::vector<TargetModule>& value) {
  Json json = Json::array();
  for (TargetModule module : value) json.push_back(static_cast<int>(module));
  return json;
}
template <typename T>
Json ToJson(const std::optional<T>& value);
Json ToJson(const MethodSpec& value);
template <typename T>
  requires std::is_class_v<T>
Json ToJson(const T& value) {
  Json json = Json::object();
  VisitFields(value, [&json](const char* key, const auto& field) {
    Json child = ToJson(field);
    if (!child.is_null()) json[key] = std::move(child);
  });
  return json;
}
template <typename T>
Json ToJson(const std::optional<T>& value) {
  return value ? ToJson(*value) : Json();
}
Json ToJson(const MethodSpec& value) {
  Json json = Json::object();
  std::visit([&](const auto& method) { json[std::string(MethodName(value))] = ToJson(method); }, value);
  return json;
}

// FromJson: false if `json` is not what ToJson makes of such a value.
bool FromJson(const Json& json, double* value) {
  if (json.is_number()) {
    *value = json.get<double>();
  } else if (json == "nan") {
    *value = std::numeric_limits<double>::quiet_NaN();
  } else if (json == "inf" || json == "-inf") {
    *value = json == "inf" ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
  } else {
    return false;
  }
  return true;
}
bool FromJson(const Json& json, bool* value) {
  if (!json.is_boolean()) return false;
  *value = json.get<bool>();
  return true;
}
bool FromJson(const Json& json, std::string* value) {
  if (!json.is_string()) return false;
  *value = json.get<std::string>();
  return true;
}
template <typename T>
  requires std::same_as<T, int32_t> || std::same_as<T, int64_t> || std::is_enum_v<T>
bool FromJson(const Json& json, T* value) {
  if (!json.is_number_integer()) return false;
  *value = static_cast<T>(json.get<int64_t>());
  return true;
}
bool FromJson(const Json& json, absl::Time* value) {
  if (!json.is_number_integer()) return false;
  *value = absl::FromUnixMicros(json.get<int64_t>());
  return true;
}
template <typename T>
bool FromJson(const Json& json, std::vector<T>* value) {
  if (!json.is_array()) return false;
  for (const Json& child : json) {
    if (!FromJson(child, &value->emplace_back())) return false;
  }
  return true;
}
bool FromJson(const Json& json, std::map<std::string, std::string>* value) {
  if (!json.is_object()) return false;
  for (const auto& [key, child] : json.items()) {
    if (!FromJson(child, &(*value)[key])) return false;
  }
  return true;
}
template <typename T>
bool FromJson(const Json& json, std::optional<T>* value);
bool FromJson(const Json& json, MethodSpec* value);
template <typename T>
  requires std::is_class_v<T>
bool FromJson(const Json& json, T* value) {
  if (!json.is_object()) return false;
  bool good = true;
  VisitFields(*value, [&](const char* key, auto& field) {
    auto child = json.find(key);
    if (child != json.end() && !FromJson(*child, &field)) good = false;
  });
  return good;
}
template <typename T>
bool FromJson(const Json& json, std::optional<T>* value) {
  return FromJson(json, &value->emplace());
}
template <size_t index = 0>
bool MethodFromJson(const Json& json, MethodSpec* value) {
  if constexpr (index == std::variant_size_v<MethodSpec>) {
    return false;
  } else {
    value->emplace<index>();
    auto child = json.find(std::string(MethodName(*value)));
    if (child == json.end()) return MethodFromJson<index + 1>(json, value);
    return FromJson(*child, &std::get<index>(*value));
  }
}
bool FromJson(const Json& json, MethodSpec* value) { return json.is_object() && MethodFromJson(json, value); }

template <typename T>
std::string ToText(const T& value) {
  return ToJson(value).dump(-1, ' ', false, Json::error_handler_t::replace);
}

template <typename T>
absl::Status FromText(absl::string_view text, T* value) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !FromJson(json, value)) {
    return MakeError(absl::StatusCode::kDataLoss, "CORRUPT_JOB",
                     absl::StrCat("A job's record in the database cannot be read: ", text.substr(0, 200)));
  }
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<T> FromText(absl::string_view text) {
  T value;
  ATTUNE_RETURN_IF_ERROR(FromText(text, &value));
  return value;
}

}  // namespace

std::string JobSpecToJson(const JobSpec& spec) { return ToText(spec); }
absl::StatusOr<JobSpec> JobSpecFromJson(absl::string_view text) { return FromText<JobSpec>(text); }

std::string JobProgressToJson(const JobProgress& progress) { return ToText(progress); }
absl::StatusOr<JobProgress> JobProgressFromJson(absl::string_view text) { return FromText<JobProgress>(text); }

std::string CheckpointToJson(const Checkpoint& checkpoint) { return ToText(checkpoint); }
absl::StatusOr<Checkpoint> CheckpointFromJson(absl::string_view text) { return FromText<Checkpoint>(text); }

std::string HyperparametersToJson(const Hyperparameters& hyperparameters) { return ToText(hyperparameters); }
absl::StatusOr<Hyperparameters> HyperparametersFromJson(absl::string_view text) {
  return FromText<Hyperparameters>(text);
}

std::string JobStatusToJson(const Job& job) { return ToText(job); }
absl::Status JobStatusFromJson(absl::string_view text, Job* job) { return FromText(text, job); }

}  // namespace attune
