#include "server/evaluation/probe/probe.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/evaluation/probe/embedded.h"

namespace attune {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";

absl::Status BadProbe(absl::string_view message, std::map<std::string, std::string> metadata = {}) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PROBE", message, std::move(metadata));
}

// One line on its way to an item.
class LineReader {
 public:
  LineReader(int64_t line, absl::string_view text)
      : line_(line), json_(Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false)) {}

  absl::StatusOr<ProbeItem> Read() const {
    // Parsing refuses strings that are not UTF-8, too.
    if (json_.is_discarded()) return Fault("", "is not valid JSON in UTF-8");
    if (!json_.is_object()) return Fault("", "is not a JSON object");
    ProbeItem item;
    ATTUNE_ASSIGN_OR_RETURN(item.id, Text("id", kMaxProbeNameBytes));
    ATTUNE_ASSIGN_OR_RETURN(item.area, Text("area", kMaxProbeNameBytes));
    ATTUNE_ASSIGN_OR_RETURN(item.prompt, Text("prompt", kMaxProbePromptBytes));
    ATTUNE_ASSIGN_OR_RETURN(item.choices, Choices());
    ATTUNE_ASSIGN_OR_RETURN(item.answer, Integer("answer", 0, static_cast<int>(item.choices.size()) - 1));
    ATTUNE_ASSIGN_OR_RETURN(item.level, Integer("level", 1, 3));
    return item;
  }

  // `field` may be empty: then the whole line is at fault.
  absl::Status Fault(absl::string_view field, absl::string_view what) const {
    std::map<std::string, std::string> metadata = {{"line", absl::StrCat(line_)}};
    if (field.empty()) return BadProbe(absl::StrCat("Line ", line_, " ", what, "."), std::move(metadata));
    metadata["field"] = std::string(field);
    return BadProbe(absl::StrCat("Line ", line_, ": '", field, "' ", what, "."), std::move(metadata));
  }

 private:
  // Null if there is none.
  const Json* Find(const char* field) const {
    auto it = json_.find(field);
    return it == json_.end() ? nullptr : &*it;
  }

  absl::StatusOr<std::string> TextOf(const Json& json, absl::string_view field, size_t max_bytes) const {
    if (!json.is_string()) return Fault(field, "is no text");
    const std::string& text = json.get_ref<const std::string&>();
    if (text.empty()) return Fault(field, "is empty");
    if (text.size() > max_bytes) {
      return Fault(field, absl::StrCat("has ", text.size(), " bytes; at most ", max_bytes, " are allowed"));
    }
    return text;
  }

  absl::StatusOr<std::string> Text(const char* field, size_t max_bytes) const {
    const Json* const json = Find(field);
    return json == nullptr ? Fault(field, "is missing") : TextOf(*json, field, max_bytes);
  }

  absl::StatusOr<int> Integer(const char* field, int low, int high) const {
    const Json* const json = Find(field);
    if (json == nullptr) return Fault(field, "is missing");
    // What parsing calls unsigned is any integer that is not negative.
    if (!json->is_number_unsigned() || json->get<uint64_t>() < static_cast<uint64_t>(low) ||
        json->get<uint64_t>() > static_cast<uint64_t>(high)) {
      return Fault(field, absl::StrCat("is no integer from ", low, " to ", high));
    }
    return json->get<int>();
  }

  absl::StatusOr<std::vector<std::string>> Choices() const {
    const Json* const json = Find("choices");
    if (json == nullptr) return Fault("choices", "is missing");
    if (!json->is_array() || json->size() < kMinProbeChoices || json->size() > kMaxProbeChoices) {
      return Fault("choices", absl::StrCat("is no list of ", kMinProbeChoices, " to ", kMaxProbeChoices, " texts"));
    }
    std::vector<std::string> choices;
    for (const Json& element : *json) {
      const std::string field = absl::StrCat("choices[", choices.size(), "]");
      ATTUNE_ASSIGN_OR_RETURN(std::string choice, TextOf(element, field, kMaxProbeChoiceBytes));
      auto same = std::find(choices.begin(), choices.end(), choice);
      if (same != choices.end()) {
        return Fault(field, absl::StrCat("equals choices[", same - choices.begin(), "]"));
      }
      choices.push_back(std::move(choice));
    }
    return choices;
  }

  const int64_t line_;
  const Json json_;
};

std::vector<std::string> Paragraphs(absl::string_view text) {
  std::vector<std::string> paragraphs;
  for (absl::string_view paragraph : absl::StrSplit(text, "\n\n")) {
    paragraph = absl::StripAsciiWhitespace(paragraph);
    if (!paragraph.empty()) paragraphs.emplace_back(paragraph);
  }
  return paragraphs;
}

}  // namespace

absl::StatusOr<std::vector<ProbeItem>> ParseProbe(absl::string_view jsonl) {
  if (jsonl.size() > kMaxProbeBytes) {
    return BadProbe(absl::StrCat("The probe has ", jsonl.size(), " bytes; at most ", kMaxProbeBytes, " are allowed."));
  }
  if (absl::StartsWith(jsonl, kByteOrderMark)) jsonl.remove_prefix(kByteOrderMark.size());
  std::vector<ProbeItem> items;
  std::set<std::string> ids;
  int64_t line = 0;
  for (absl::string_view text : absl::StrSplit(jsonl, '\n')) {
    ++line;
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    const LineReader reader(line, text);
    if (items.size() == kMaxProbeItems) {
      return reader.Fault("", absl::StrCat("is one too many; at most ", kMaxProbeItems, " items are allowed"));
    }
    ATTUNE_ASSIGN_OR_RETURN(ProbeItem item, reader.Read());
    if (!ids.insert(item.id).second) return reader.Fault("id", "is that of an earlier line, too");
    items.push_back(std::move(item));
  }
  if (items.empty()) return BadProbe("The probe has no item.");
  return items;
}

const std::vector<ProbeItem>& BuiltInProbe() {
  static const auto* const items = new std::vector<ProbeItem>(ParseProbe(EmbeddedProbeItems()).value());
  return *items;
}

const std::vector<std::string>& BuiltInProbeText() {
  static const auto* const paragraphs = new std::vector<std::string>(Paragraphs(EmbeddedProbeText()));
  return *paragraphs;
}

}  // namespace attune
