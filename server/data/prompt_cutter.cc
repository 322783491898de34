#include "server/data/prompt_cutter.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/error.h"
#include "server/data/fit.h"

namespace attune {
namespace {

// `text`, one side kept, in at most `room` tokens; `full_count` is what all of it takes.
CutPrompt CutText(const TextEncoder& encoder, absl::string_view text, Keep keep, size_t full_count, int64_t room) {
  CutPrompt out;
  auto count = [&](absl::string_view part) { return encoder.Begin(part, false).size(); };
  out.text = FitText(text, keep, full_count, static_cast<size_t>(room), count).value_or("");
  out.tokens = encoder.Begin(out.text, false);
  out.truncated = true;
  return out;
}

// The variable with the longest value; null if all are empty.
std::string* Longest(const PromptTemplate& source, Columns* columns) {
  std::string* longest = nullptr;
  for (const std::string& name : source.variables()) {
    std::string& value = (*columns)[name];
    if (!value.empty() && (longest == nullptr || value.size() > longest->size())) longest = &value;
  }
  return longest;
}

}  // namespace

absl::StatusOr<CutPrompt> RenderWithin(const TextEncoder& encoder, const PromptTemplate& source, Columns columns,
                                       int64_t room) {
  CutPrompt out;
  ATTUNE_ASSIGN_OR_RETURN(out.text, source.Render(columns));
  out.tokens = encoder.Begin(out.text, false);
  if (static_cast<int64_t>(out.tokens.size()) <= room) return out;
  if (source.IsBareVariable()) return CutText(encoder, out.text, Keep::kEnd, out.tokens.size(), room);

  while (std::string* longest = Longest(source, &columns)) {
    const std::string value = *longest;
    // Every variable is there, as the first rendering showed.
    auto render = [&](absl::string_view part) {
      *longest = std::string(part);
      return source.Render(columns).value();
    };
    auto count = [&](absl::string_view part) { return encoder.Begin(render(part), false).size(); };
    std::optional<std::string> part =
        FitText(value, Keep::kBeginning, out.tokens.size(), static_cast<size_t>(room), count);
    out.text = render(part.value_or(""));
    out.tokens = encoder.Begin(out.text, false);
    out.truncated = true;
    if (part.has_value()) return out;
  }
  return CutText(encoder, out.text, Keep::kEnd, out.tokens.size(), room);
}

CutPrompt KeepBeginning(const TextEncoder& encoder, absl::string_view text, int64_t room) {
  CutPrompt out{std::string(text), encoder.Begin(text, false), false};
  if (static_cast<int64_t>(out.tokens.size()) <= room) return out;
  return CutText(encoder, text, Keep::kBeginning, out.tokens.size(), room);
}

}  // namespace attune
