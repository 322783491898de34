#include "server/evaluation/measures/rouge.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "server/evaluation/measures/characters.h"

namespace attune {
namespace {

// Equal words have equal numbers.
using WordIds = absl::flat_hash_map<std::string, int32_t>;

std::vector<int32_t> Words(absl::string_view text, WordIds* ids) {
  std::string plain = LowerCase(text);
  for (char& c : plain) {
    if (!absl::ascii_isalnum(c)) c = ' ';
  }
  std::vector<int32_t> words;
  for (absl::string_view word : absl::StrSplit(plain, ' ', absl::SkipEmpty())) {
    words.push_back(ids->try_emplace(std::string(word), static_cast<int32_t>(ids->size())).first->second);
  }
  return words;
}

int64_t LongestCommonSubsequence(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int64_t> row(b.size() + 1);  // row[j]: of what was read of a, and b's first j
  for (int32_t word : a) {
    int64_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const int64_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

RougeScore Score(const std::vector<int32_t>& answer, const std::vector<int32_t>& reference) {
  RougeScore score;
  if (answer.empty() || reference.empty()) return score;
  const double common = LongestCommonSubsequence(answer, reference);
  score.precision = common / answer.size();
  score.recall = common / reference.size();
  score.f1 = 2 * common / (answer.size() + reference.size());
  return score;
}

}  // namespace

RougeScore RougeL(absl::string_view answer, absl::Span<const std::string> references) {
  WordIds ids;
  const std::vector<int32_t> words = Words(answer, &ids);
  RougeScore best;
  for (const std::string& reference : references) {
    const RougeScore score = Score(words, Words(reference, &ids));
    if (score.f1 > best.f1) best = score;
  }
  return best;
}

}  // namespace attune
