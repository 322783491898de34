#include "common/error.h"

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace attune {
namespace {

// Payload keys. Each holds fields separated by '\x1f', records by '\x1e':
// these control characters do not occur in reasons, field paths or prose.
constexpr char kReason[] = "attune.dev/reason";
constexpr char kMetadata[] = "attune.dev/metadata";
constexpr char kViolations[] = "attune.dev/violations";

template <typename Pairs>
std::string Encode(const Pairs& pairs) {
  return absl::StrJoin(pairs, "\x1e", [](std::string* out, const auto& p) {
    absl::StrAppend(out, p.first, "\x1f", p.second);
  });
}

std::vector<std::pair<std::string, std::string>> Decode(const absl::Cord& cord) {
  std::vector<std::pair<std::string, std::string>> out;
  std::string text(cord);
  if (text.empty()) return out;
  for (absl::string_view record : absl::StrSplit(text, '\x1e')) {
    out.push_back(absl::StrSplit(record, absl::MaxSplits('\x1f', 1)));
  }
  return out;
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       std::map<std::string, std::string> metadata, std::vector<FieldViolation> violations) {
  absl::Status status(code, message);
  status.SetPayload(kReason, absl::Cord(reason));
  if (!metadata.empty()) status.SetPayload(kMetadata, absl::Cord(Encode(metadata)));
  if (!violations.empty()) {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (FieldViolation& v : violations) pairs.emplace_back(v.field, v.description);
    status.SetPayload(kViolations, absl::Cord(Encode(pairs)));
  }
  return status;
}

absl::Status InvalidField(absl::string_view field, absl::string_view description, absl::string_view reason) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, absl::StrCat(field, ": ", description), {},
                   {{std::string(field), std::string(description)}});
}

absl::Status NotFound(absl::string_view resource_name) {
  absl::string_view collection = resource_name.substr(0, resource_name.find('/'));
  std::string kind;
  for (char c : collection) {
    if (absl::ascii_isupper(c)) kind += '_';
    kind += absl::ascii_toupper(c);
  }
  if (absl::EndsWith(kind, "SES")) {
    kind.resize(kind.size() - 2);  // ALIASES
  } else if (kind.size() > 1 && kind.back() == 'S') {
    kind.pop_back();
  }
  return MakeError(absl::StatusCode::kNotFound, absl::StrCat(kind, "_NOT_FOUND"),
                   absl::StrCat("There is no '", resource_name, "'."), {{"name", std::string(resource_name)}});
}

ErrorDetails GetErrorDetails(const absl::Status& status) {
  ErrorDetails details;
  if (auto reason = status.GetPayload(kReason)) details.reason = std::string(*reason);
  if (auto metadata = status.GetPayload(kMetadata)) {
    for (auto& [key, value] : Decode(*metadata)) details.metadata[key] = value;
  }
  if (auto violations = status.GetPayload(kViolations)) {
    for (auto& [field, description] : Decode(*violations)) details.violations.push_back({field, description});
  }
  return details;
}

}  // namespace attune
