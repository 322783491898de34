#include "server/data/fit.h"

#include "common/utf8.h"


namespace attune {
namespace {

// Enough for interpolation to settle on ordinary text, and for every second step,
// a bisection, to narrow any other text down to a fraction of a percent.
constexpr int kMaxCounts = 16;

}  // namespace

absl::string_view Part(absl::string_view text, size_t bytes, Keep keep) {
  if (bytes >= text.size()) return text;
  if (keep == Keep::kBeginning) return text.substr(0, CharacterStartBefore(text, bytes));
  return text.substr(CharacterStartAfter(text, text.size() - bytes));
}

std::optional<std::string> FitText(absl::string_view text, Keep keep, size_t full_count, size_t room,
                                   const std::function<size_t(absl::string_view part)>& count) {
  // Sizes in bytes between which the limit lies: `low` fits, `high` does not.
  size_t low = 0, high = text.size();
  size_t low_count = count(absl::string_view()), high_count = full_count;
  if (low_count > room) return std::nullopt;
  for (int i = 0; i < kMaxCounts && low_count < room && high - low > 1; ++i) {
    double share = i % 2 == 0 ? static_cast<double>(room - low_count) / static_cast<double>(high_count - low_count) : 0.5;
    size_t guess = low + static_cast<size_t>(share * static_cast<double>(high - low));
    absl::string_view part = Part(text, guess, keep);
    if (part.size() <= low) {  // the next larger part, then
      for (size_t bytes = low + 1; bytes <= low + 4 && part.size() <= low; ++bytes) part = Part(text, bytes, keep);
      if (part.size() <= low) break;
    }
    if (part.size() >= high) part = Part(text, low + (high - low) / 2, keep);
    if (part.size() <= low) break;
    size_t parts = count(part);
    if (parts <= room) {
      low = part.size();
      low_count = parts;
    } else {
      high = part.size();
      high_count = parts;
    }
  }
  return std::string(Part(text, low, keep));
}

}  // namespace attune
