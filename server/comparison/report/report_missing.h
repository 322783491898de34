#ifndef ATTUNE_SERVER_COMPARISON_REPORT_MISSING_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_MISSING_H_

#include <string>

#include "absl/strings/string_view.h"
#include "server/comparison/comparison.h"

namespace attune {

// A contender's measure if it was taken and is a number; else null.
const Measure* FiniteMeasure(const Contender& contender, absl::string_view name);

// Why there is none, for people: "side effects were left out on request".
std::string WhyMissing(const Comparison& comparison, const Contender& contender, absl::string_view measure);

// Whether any contender has it.
bool IsMeasured(const Comparison& comparison, absl::string_view measure);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_MISSING_H_
