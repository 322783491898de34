#include "server/comparison/verdict.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/comparison/measure_names.h"
#include "server/evaluation/measures/paired_comparison.h"
#include "server/evaluation/measures/significance.h"

namespace attune {
namespace {

constexpr double kAlpha = 0.05;

double ValueOf(const Contender& contender, absl::string_view name) {
  const Measure* measure = contender.Find(name);
  return measure ? measure->value : 0;
}

// Indices of the measured contenders, best first; the cheaper of equals first.
std::vector<size_t> Ranking(const std::vector<std::vector<double>>& scores, const std::vector<Contender>& contenders) {
  std::vector<size_t> order;
  for (size_t i = 0; i < contenders.size(); ++i) {
    if (!scores[i].empty() && contenders[i].Find(kQuality)) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const double quality_a = ValueOf(contenders[a], kQuality), quality_b = ValueOf(contenders[b], kQuality);
    if (quality_a != quality_b) return quality_a > quality_b;
    return ValueOf(contenders[a], kSearchSeconds) < ValueOf(contenders[b], kSearchSeconds);
  });
  return order;
}

void CompareWithBest(const std::vector<std::vector<double>>& scores, const std::vector<size_t>& order,
                     std::vector<Contender>* contenders) {
  std::vector<PairedComparison> pairs;
  std::vector<double> p_values;
  for (size_t i = 1; i < order.size(); ++i) {
    pairs.push_back(ComparePaired(scores[order[0]], scores[order[i]], PairedOptions()));
    p_values.push_back(pairs.back().p_value);
  }
  const std::vector<double> adjusted = HolmAdjust(p_values);
  for (size_t i = 0; i < order.size(); ++i) {
    Contender& contender = (*contenders)[order[i]];
    contender.rank = static_cast<int32_t>(i + 1);
    contender.p_value = i == 0 ? 1 : adjusted[i - 1];
    contender.ties_best = i > 0 && Judge(pairs[i - 1].difference, adjusted[i - 1], kAlpha) == Verdict::kTied;
  }
}

bool IsFarCheaper(const Contender& a, const Contender& b) {
  constexpr double kSmall = 16 << 20;
  const double seconds_a = ValueOf(a, kSearchSeconds), seconds_b = ValueOf(b, kSearchSeconds);
  if (seconds_a < seconds_b / 2) return true;
  const double bytes_a = ValueOf(a, kModelBytes), bytes_b = ValueOf(b, kModelBytes);
  return seconds_a <= 1.25 * seconds_b && bytes_b > kSmall && bytes_a < bytes_b / 4;
}

std::string Title(const Contender& contender) {
  return absl::StrReplaceAll(ContenderName(contender.kind), {{"_", " "}});
}

std::string QualityText(const Contender& contender) {
  const Measure& quality = *contender.Find(kQuality);
  return absl::StrFormat("%.3f (%.3f to %.3f)", quality.value, quality.lower, quality.upper);
}

std::string Explain(const Comparison& comparison, const std::vector<size_t>& order) {
  const Contender &winner = comparison.contenders[comparison.winner], &best = comparison.contenders[order[0]];
  std::string text = absl::StrFormat("Take %s: quality %s on %d test examples", Title(winner), QualityText(winner),
                                     comparison.test_examples);
  if (ValueOf(winner, kSearchSeconds) > 0) {
    absl::StrAppendFormat(&text, ", after %.0f s of training over all its trials", ValueOf(winner, kSearchSeconds));
  }
  text += ".";
  if (&winner != &best) {
    absl::StrAppendFormat(&text, " %s has %s, which these examples do not tell apart (p = %.2f), but ", Title(best),
                          QualityText(best), winner.p_value);
    if (ValueOf(winner, kSearchSeconds) < ValueOf(best, kSearchSeconds) / 2) {  // as IsFarCheaper has it
      absl::StrAppendFormat(&text, "took %.0f s.", ValueOf(best, kSearchSeconds));
    } else {
      absl::StrAppendFormat(&text, "takes %.1f MiB rather than %.1f.", ValueOf(best, kModelBytes) / (1 << 20),
                            ValueOf(winner, kModelBytes) / (1 << 20));
    }
  }
  std::vector<std::string> tied, behind;
  for (size_t i : order) {
    const Contender& contender = comparison.contenders[i];
    if (&contender == &winner || &contender == &best) continue;
    (contender.ties_best ? tied : behind).push_back(absl::StrFormat("%s %.3f", Title(contender), ValueOf(contender, kQuality)));
  }
  if (!tied.empty()) absl::StrAppend(&text, " Not told from the best either: ", absl::StrJoin(tied, ", "), ".");
  if (!behind.empty()) absl::StrAppend(&text, " Behind it: ", absl::StrJoin(behind, ", "), ".");
  const Measure* forgetting = winner.Find(kForgetting);
  if (forgetting && forgetting->lower > 0) {
    absl::StrAppendFormat(&text, " Mind that it forgets: %.3f of the probe's answers are lost.", forgetting->value);
  }
  return text;
}

}  // namespace

void Decide(const std::vector<std::vector<double>>& scores, Comparison* comparison) {
  const std::vector<size_t> order = Ranking(scores, comparison->contenders);
  if (order.empty()) {
    comparison->winner = -1;
    comparison->verdict = "Nothing could be measured, so there is nothing to recommend.";
    return;
  }
  CompareWithBest(scores, order, &comparison->contenders);
  size_t winner = order[0];
  for (size_t i : order) {
    const Contender& contender = comparison->contenders[i];
    if (contender.ties_best && IsFarCheaper(contender, comparison->contenders[winner])) winner = i;
  }
  comparison->winner = static_cast<int32_t>(winner);
  comparison->verdict = Explain(*comparison, order);
}

}  // namespace attune
