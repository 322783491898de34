#include "server/jobs/job_json.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/jobs/job_fields.h"

namespace attune {

using json_fields::Json;
using json_fields::ToText;

Json ToJson(const MethodSpec& value) {
  Json json = Json::object();
  std::visit([&](const auto& method) { json[std::string(MethodName(value))] = json_fields::ToJson(method); }, value);
  return json;
}

namespace {

template <size_t index = 0>
bool MethodFromJson(const Json& json, MethodSpec* value) {
  if constexpr (index == std::variant_size_v<MethodSpec>) {
    return false;
  } else {
    value->emplace<index>();
    auto child = json.find(std::string(MethodName(*value)));
    if (child == json.end()) return MethodFromJson<index + 1>(json, value);
    return json_fields::FromJson(*child, &std::get<index>(*value));
  }
}

template <typename T>
absl::Status FromText(absl::string_view text, T* value) {
  if (json_fields::FromText(text, value)) return absl::OkStatus();
  return MakeError(absl::StatusCode::kDataLoss, "CORRUPT_JOB",
                   absl::StrCat("A job's record in the database cannot be read: ", text.substr(0, 200)));
}

template <typename T>
absl::StatusOr<T> FromText(absl::string_view text) {
  T value;
  ATTUNE_RETURN_IF_ERROR(FromText(text, &value));
  return value;
}

}  // namespace

bool FromJson(const Json& json, MethodSpec* value) { return json.is_object() && MethodFromJson(json, value); }

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
