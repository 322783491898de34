#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_RANK_CORRELATION_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_RANK_CORRELATION_H_

#include <optional>

#include "absl/types/span.h"

namespace attune {

// Kendall's tau-b (Kendall 1945, corrected for ties): how far two figures rank the same things alike, -1 (reversed)
// to 1. Nothing if one of them is the same for all. Time: the square of the count. REQUIRES: same count, no NaN.
std::optional<double> KendallTau(absl::Span<const double> a, absl::Span<const double> b);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_RANK_CORRELATION_H_
