#include "server/evaluation/measures/chrf.h"

#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/evaluation/measures/characters.h"

namespace attune {
namespace {

using Counts = absl::flat_hash_map<absl::string_view, int64_t>;

// A text without white space, and where its characters start, the end included.
struct Letters {
  explicit Letters(absl::string_view text) {
    for (absl::string_view character : Characters(text)) {
      if (IsSpaceCharacter(character)) continue;
      starts.push_back(bytes.size());
      bytes.append(character.data(), character.size());
    }
    starts.push_back(bytes.size());
  }

  Counts NGrams(size_t n) const {
    Counts counts;
    for (size_t i = 0; i + n < starts.size(); ++i) {
      ++counts[absl::string_view(bytes).substr(starts[i], starts[i + n] - starts[i])];
    }
    return counts;
  }
  int64_t Count(size_t n) const { return starts.size() > n ? starts.size() - n : 0; }

  std::string bytes;
  std::vector<size_t> starts;
};

ChrfStatistics Count(const Letters& answer, const Letters& reference) {
  ChrfStatistics out;
  for (int n = 1; n <= ChrfStatistics::kOrders; ++n) {
    ChrfStatistics::Order& order = out.orders[n - 1];
    order.reference = reference.Count(n);
    // An order that the reference lacks says nothing about the answer.
    if (order.reference == 0) continue;
    order.answer = answer.Count(n);
    const Counts given = answer.NGrams(n);
    for (const auto& [gram, count] : reference.NGrams(n)) {
      const auto it = given.find(gram);
      if (it != given.end()) order.matches += std::min(count, it->second);
    }
  }
  return out;
}

}  // namespace

ChrfStatistics& ChrfStatistics::operator+=(const ChrfStatistics& other) {
  for (int n = 0; n < kOrders; ++n) {
    orders[n].answer += other.orders[n].answer;
    orders[n].reference += other.orders[n].reference;
    orders[n].matches += other.orders[n].matches;
  }
  return *this;
}

ChrfStatistics CountChrf(absl::string_view answer, absl::Span<const std::string> references) {
  const Letters letters(answer);
  ChrfStatistics best;
  double best_score = -1;
  for (const std::string& reference : references) {
    const ChrfStatistics statistics = Count(letters, Letters(reference));
    const double score = ChrfScore(statistics);
    if (score > best_score) best = statistics, best_score = score;
  }
  return best;
}

double ChrfScore(const ChrfStatistics& statistics) {
  constexpr double kBeta2 = 2 * 2;
  double precision = 0, recall = 0;
  int used = 0;
  for (const ChrfStatistics::Order& order : statistics.orders) {
    if (order.answer == 0 || order.reference == 0) continue;
    precision += static_cast<double>(order.matches) / order.answer;
    recall += static_cast<double>(order.matches) / order.reference;
    ++used;
  }
  if (precision + recall == 0) return 0;
  precision /= used;
  recall /= used;
  return (1 + kBeta2) * precision * recall / (kBeta2 * precision + recall);
}

}  // namespace attune
