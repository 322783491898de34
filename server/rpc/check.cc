#include "server/rpc/check.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "server/data/template.h"

namespace attune {
namespace {

absl::Status CheckTemplate(absl::string_view source, absl::string_view field) {
  absl::Status status = PromptTemplate::Parse(source).status();
  if (status.ok()) return status;
  return InvalidField(field, status.message(), "BAD_TEMPLATE");
}

}  // namespace

absl::Status CheckUnused(absl::string_view what, absl::string_view reason, absl::string_view kind,
                         const std::vector<std::string>& users) {
  if (users.empty()) return absl::OkStatus();
  const std::string names = absl::StrJoin(users, ",");
  return MakeError(absl::StatusCode::kFailedPrecondition, reason,
                   absl::StrCat("Unfinished ", absl::StrReplaceAll(kind, {{"_", " "}}), " need the ", what, ": ", names),
                   {{std::string(kind), names}});
}

absl::Status CheckRange(double value, double low, double high, absl::string_view field) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("must be ", low, " to ", high, "; is ", value));
}

absl::Status CheckRange(int64_t value, int64_t low, int64_t high, absl::string_view field) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("must be ", low, " to ", high, "; is ", value));
}

absl::Status CheckRangeOrUnset(int64_t value, int64_t low, int64_t high, absl::string_view field) {
  if (value == 0 || (value >= low && value <= high)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("must be ", low, " to ", high, ", or unset; is ", value));
}

absl::Status CheckLength(absl::string_view value, size_t most_bytes, absl::string_view field) {
  if (value.size() <= most_bytes) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("must be at most ", most_bytes, " bytes; has ", value.size()));
}

absl::Status CheckLabels(const StringMap& labels, absl::string_view field) {
  if (labels.size() > 32) return InvalidField(field, "must be at most 32 pairs");
  for (const auto& [key, value] : labels) {
    if (key.empty()) return InvalidField(field, "must not have an empty key");
    ATTUNE_RETURN_IF_ERROR(CheckLength(key, 128, field));
    ATTUNE_RETURN_IF_ERROR(CheckLength(value, 128, field));
  }
  return absl::OkStatus();
}

absl::Status CheckDataOptions(const v1::DataOptions& options, absl::string_view field) {
  ATTUNE_RETURN_IF_ERROR(CheckTemplate(options.prompt_template(), absl::StrCat(field, ".prompt_template")));
  ATTUNE_RETURN_IF_ERROR(CheckTemplate(options.completion_template(), absl::StrCat(field, ".completion_template")));
  ATTUNE_RETURN_IF_ERROR(CheckRangeOrUnset(options.max_sequence_tokens(), 8, std::numeric_limits<int32_t>::max(),
                                           absl::StrCat(field, ".max_sequence_tokens")));
  if (options.validation_fraction() <= 0.5) return absl::OkStatus();
  return InvalidField(absl::StrCat(field, ".validation_fraction"), "must be at most 0.5");
}

std::map<std::string, std::string> ToMap(const StringMap& map) { return {map.begin(), map.end()}; }

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  const int64_t nanos = absl::ToUnixNanos(time);
  google::protobuf::Timestamp out;
  int64_t seconds = nanos / 1'000'000'000, rest = nanos % 1'000'000'000;
  if (rest < 0) {
    --seconds;
    rest += 1'000'000'000;
  }
  out.set_seconds(seconds);
  out.set_nanos(static_cast<int32_t>(rest));
  return out;
}

DataOptions ToDataOptions(const v1::DataOptions& options) {
  DataOptions out;
  out.prompt_template = options.prompt_template();
  out.completion_template = options.completion_template();
  out.train_on_prompt = options.train_on_prompt();
  out.max_sequence_tokens = options.max_sequence_tokens();
  out.validation_fraction = options.validation_fraction();
  out.split_long_texts = options.split_long_texts();
  return out;
}

}  // namespace attune
