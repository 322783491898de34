#include "server/advice/calibration.h"

#include <algorithm>

#include "server/comparison/measure_names.h"

namespace attune {
namespace {

constexpr double kHalfTrusted = 50;  // test examples at which a comparison weighs half
constexpr double kLeastHeadroom = 0.02;

const Measure* QualityIn(const Comparison& comparison, ContenderKind kind) {
  const Contender* contender = comparison.FindContender(kind);
  return contender ? contender->Find(kQuality) : nullptr;
}

struct Sum {
  double residuals = 0, weights = 0;
  int64_t comparisons = 0;
};

void AddResiduals(const RuleTable& table, const PastComparison& past, std::map<ContenderKind, Sum>* sums) {
  const Measure* zero = QualityIn(past.comparison, ContenderKind::kZeroShot);
  if (past.comparison.state != ComparisonState::kSucceeded || !zero || 1 - zero->value < kLeastHeadroom) return;
  const Evidence evidence = EvidenceOf(past.comparison, past.parameters);
  const double headroom = 1 - zero->value, tests = static_cast<double>(past.comparison.test_examples);
  for (const auto& [kind, rule] : table.rules) {
    const Measure* measured = QualityIn(past.comparison, kind);
    if (!measured) continue;
    const double residual = (measured->value - Expect(table, kind, evidence).quality) / headroom;
    const double weight = headroom * tests / (tests + kHalfTrusted);
    Sum& sum = (*sums)[kind];
    sum.residuals += weight * residual;
    sum.weights += weight;
    ++sum.comparisons;
  }
}

}  // namespace

Evidence EvidenceOf(const Comparison& comparison, int64_t parameters) {
  Evidence evidence;
  evidence.rows = comparison.train_examples;
  evidence.test_rows = comparison.test_examples;
  evidence.labels = static_cast<int64_t>(comparison.choices.size());
  evidence.parameters = parameters;
  if (const Measure* zero = QualityIn(comparison, ContenderKind::kZeroShot)) {
    evidence.zero_shot = Proportion{zero->value, zero->lower, zero->upper, zero->count};
  }
  return evidence;
}

RuleTable Calibrate(RuleTable table, const std::vector<PastComparison>& past) {
  std::map<ContenderKind, Sum> sums;
  for (const PastComparison& one : past) AddResiduals(table, one, &sums);
  for (const auto& [kind, sum] : sums) {
    table.shift[kind] += sum.residuals / (sum.weights + kPseudoCount);
    table.comparisons[kind] += sum.comparisons;
  }
  return table;
}

}  // namespace attune
