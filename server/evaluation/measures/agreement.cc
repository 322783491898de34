#include "server/evaluation/measures/agreement.h"

#include <cstdint>
#include <map>

#include "absl/strings/string_view.h"

namespace attune {
namespace {

std::map<absl::string_view, int64_t> Count(const AnswerGroup& group) {
  std::map<absl::string_view, int64_t> counts;
  for (const std::string& answer : group) ++counts[answer];
  return counts;
}

}  // namespace

double PairwiseAgreement(const AnswerGroup& group) {
  int64_t equal = 0;
  for (const auto& [answer, count] : Count(group)) equal += count * (count - 1);
  const double size = group.size();
  return equal / (size * (size - 1));
}

Agreement MeasureAgreement(absl::Span<const AnswerGroup> groups) {
  Agreement out;
  int64_t measured = 0, unanimous = 0;
  for (const AnswerGroup& group : groups) {
    if (group.size() < 2) continue;
    ++measured;
    unanimous += Count(group).size() == 1;
    out.pairwise += PairwiseAgreement(group);
  }
  if (measured > 0) out.pairwise /= measured;
  out.unanimous = WilsonInterval(unanimous, measured);
  return out;
}

std::optional<double> FleissKappa(absl::Span<const AnswerGroup> groups) {
  std::map<absl::string_view, int64_t> totals;
  int64_t answers = 0;
  size_t size = 0;
  for (const AnswerGroup& group : groups) {
    if (group.size() < 2) continue;
    if (size != 0 && group.size() != size) return std::nullopt;
    size = group.size();
    answers += size;
    for (const auto& [answer, count] : Count(group)) totals[answer] += count;
  }
  if (totals.size() < 2) return std::nullopt;
  double chance = 0;
  for (const auto& [answer, count] : totals) {
    const double share = static_cast<double>(count) / answers;
    chance += share * share;
  }
  return (MeasureAgreement(groups).pairwise - chance) / (1 - chance);
}

}  // namespace attune
