#include "server/model/generation_config.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/tokenizer/json_file.h"

namespace attune {
namespace {

absl::Status Bad(const char* name, const char* range) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL",
                   absl::StrCat("generation_config.json: '", name, "' must be ", range));
}

// Leaves `value` alone if the file does not have it.
absl::Status Read(const nlohmann::json& file, const char* name, double lowest, double highest, const char* range,
                  double* value) {
  const auto found = file.find(name);
  if (found == file.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_number()) return Bad(name, range);
  const double given = found->get<double>();
  if (!(given >= lowest && given <= highest)) return Bad(name, range);
  *value = given;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(const nlohmann::json file, ReadJsonFile(directory + "/generation_config.json"));
  GenerationDefaults out;
  if (!file.is_object()) return out;
  constexpr double kLeast = std::numeric_limits<double>::min();
  ATTUNE_RETURN_IF_ERROR(Read(file, "repetition_penalty", kLeast, 1e6, "above 0", &out.repetition_penalty));
  const auto samples = file.find("do_sample");
  if (samples == file.end() || !samples->is_boolean() || !samples->get<bool>()) return out;
  out.temperature = 1;  // Hugging Face's default
  double top_k = 0;
  ATTUNE_RETURN_IF_ERROR(Read(file, "temperature", 0, 10, "0 to 10", &out.temperature));
  ATTUNE_RETURN_IF_ERROR(Read(file, "top_p", kLeast, 1, "above 0 and at most 1", &out.top_p));
  ATTUNE_RETURN_IF_ERROR(Read(file, "top_k", 0, 1e9, "0 to 10^9", &top_k));
  out.top_k = static_cast<int32_t>(top_k);
  return out;
}

}  // namespace attune
