#include "server/evaluation/measures/token_f1.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/evaluation/measures/characters.h"
#include "server/evaluation/measures/exact_match.h"

namespace attune {
namespace {

double F1(const std::vector<absl::string_view>& answer, const std::vector<absl::string_view>& reference) {
  if (answer.empty() || reference.empty()) return answer.empty() && reference.empty();
  absl::flat_hash_map<absl::string_view, int64_t> left;
  for (absl::string_view word : reference) ++left[word];
  int64_t shared = 0;
  for (absl::string_view word : answer) shared += --left[word] >= 0;
  return 2.0 * shared / (answer.size() + reference.size());
}

}  // namespace

double TokenF1(absl::string_view answer, absl::Span<const std::string> references) {
  const std::string given = NormalizeAnswer(answer);
  const std::vector<absl::string_view> words = SplitWords(given);
  double best = 0;
  for (const std::string& reference : references) {
    const std::string normalized = NormalizeAnswer(reference);
    best = std::max(best, F1(words, SplitWords(normalized)));
  }
  return best;
}

}  // namespace attune
