#include "server/evaluation/measures/structured.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace attune {
namespace {

// Comparing and freeing values is recursive, so depth is checked before they are made.
bool IsTooDeep(absl::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') {
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == '[' || c == '{')) {
      if (++depth > kMaxJsonDepth) return true;
    } else if (!quoted && (c == ']' || c == '}')) {
      --depth;
    }
  }
  return false;
}

// Discarded if not valid.
nlohmann::json Parse(absl::string_view text) {
  if (IsTooDeep(text)) return nlohmann::json(nlohmann::json::value_t::discarded);
  return nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

}  // namespace

bool IsValidJson(absl::string_view answer) { return !Parse(answer).is_discarded(); }

bool IsJsonObjectWith(absl::string_view answer, absl::Span<const std::string> keys) {
  const nlohmann::json value = Parse(answer);
  return value.is_object() &&
         std::all_of(keys.begin(), keys.end(), [&](const std::string& key) { return value.contains(key); });
}

bool JsonEquals(absl::string_view answer, absl::string_view reference) {
  const nlohmann::json a = Parse(answer), b = Parse(reference);
  return !a.is_discarded() && !b.is_discarded() && a == b;
}

}  // namespace attune
