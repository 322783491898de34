#include "server/advice/retrospect.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/error.h"
#include "server/comparison/measure_names.h"

namespace attune {
namespace {

double SecondsOf(const Contender& contender) {
  const Measure* seconds = contender.Find(kTrainingSeconds);
  return seconds ? seconds->value : 0;
}

// The measured contenders that rules speak of, at what they cost.
std::map<ContenderKind, MethodCost> CostsIn(const Comparison& comparison) {
  std::map<ContenderKind, MethodCost> costs;
  for (const Contender& contender : comparison.contenders) {
    if (contender.kind == ContenderKind::kHandPrompt || !contender.Find(kQuality)) continue;
    costs[contender.kind] = {.device_seconds = SecondsOf(contender)};
  }
  return costs;
}

const Measure& QualityIn(const Comparison& comparison, ContenderKind kind) {
  return *comparison.FindContender(kind)->Find(kQuality);
}

std::string Explain(const Retrospective& r) {
  std::string text = absl::StrFormat(
      "Before comparison %s the advice would have been %s, expected at %.2f (%.2f to %.2f); it "
      "reached %.3f.",
      r.comparison, MethodTitle(r.named), r.expected, r.expected_lower, r.expected_upper, r.named_quality);
  if (r.named == r.best) {
    absl::StrAppend(&text, " That was right: nothing was better.");
  } else {
    absl::StrAppendFormat(&text, " The best was %s with %.3f; that is %s one interval of it, so the advice was %s.",
                          MethodTitle(r.best), r.best_quality, r.was_right ? "within" : "more than",
                          r.was_right ? "right" : "wrong");
  }
  absl::StrAppendFormat(&text, " %d of %d expected ranges held what was measured.", r.ranges_held, r.ranges);
  return text;
}

}  // namespace

absl::StatusOr<Retrospective> LookBack(const RuleTable& table, Evidence evidence, const Needs& needs,
                                       const Comparison& comparison) {
  if (comparison.state != ComparisonState::kSucceeded) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "COMPARISON_NOT_SUCCEEDED",
                     absl::StrCat("The comparison '", comparison.spec.id,
                                  "' has not succeeded, so there is nothing to learn from."));
  }
  evidence.costs = CostsIn(comparison);
  if (evidence.costs.size() < 2) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOTHING_MEASURED",
                     absl::StrCat("The comparison '", comparison.spec.id,
                                  "' measured fewer than two methods that advice speaks of."));
  }
  const Ranking ranking = Rank(table, evidence, needs);
  const Recommendation& first = ranking.recommendations[0];
  Retrospective r;
  r.comparison = comparison.spec.id;
  r.named = first.kind;
  r.expected = first.quality;
  r.expected_lower = first.lower;
  r.expected_upper = first.upper;
  r.named_quality = QualityIn(comparison, first.kind).value;
  r.best_quality = -1;
  for (const Recommendation& one : ranking.recommendations) {
    const Measure& measured = QualityIn(comparison, one.kind);
    if (one.kind != ContenderKind::kZeroShot) {  // which is measured, not expected
      ++r.ranges;
      r.ranges_held += measured.value >= one.lower && measured.value <= one.upper;
    }
    if (measured.value <= r.best_quality) continue;  // the earlier advised of equals
    r.best = one.kind;
    r.best_quality = measured.value;
    r.best_lower = measured.lower;
  }
  r.was_right = r.named_quality >= r.best_lower;
  r.text = Explain(r);
  return r;
}

std::vector<PastComparison> Without(const std::vector<PastComparison>& past, const std::string& id) {
  std::vector<PastComparison> others;
  std::copy_if(past.begin(), past.end(), std::back_inserter(others),
               [&](const PastComparison& one) { return one.comparison.spec.id != id; });
  return others;
}

}  // namespace attune
