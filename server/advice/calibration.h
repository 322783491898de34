#ifndef ATTUNE_SERVER_ADVICE_CALIBRATION_H_
#define ATTUNE_SERVER_ADVICE_CALIBRATION_H_

#include <cstdint>
#include <vector>

#include "server/advice/rules.h"
#include "server/comparison/comparison.h"

// What past comparisons teach the rules. Pure.
namespace attune {

// What was known before a comparison, as far as it kept it: rows, labels and the zero-shot quality, if that was
// measured. No distance, few-shot quality or curve. `parameters`: of its base model; 0: unknown.
Evidence EvidenceOf(const Comparison& comparison, int64_t parameters);

// A comparison that succeeded, and its base model's size.
struct PastComparison {
  Comparison comparison;
  int64_t parameters = 0;
};

// Shifts each method's share by the mean of measured less expected share over the comparisons that measured it and the
// zero-shot quality. A comparison weighs more the more test examples it had and the more headroom there was, at most 1;
// three comparisons' worth of the rule as it is (`kPseudoCount`) count among them, so that one alone moves a rule by at
// most a quarter of what it saw. Comparisons that did not succeed teach nothing.
inline constexpr double kPseudoCount = 3;
RuleTable Calibrate(RuleTable table, const std::vector<PastComparison>& past);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_CALIBRATION_H_
