#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_PERCENTILE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_PERCENTILE_H_

#include <vector>

#include "absl/types/span.h"

namespace attune {

// Percentiles (0 to 100) of the values, for example of token lengths: linear between the two nearest
// (type 7 of Hyndman and Fan 1996, as numpy's default). REQUIRES: at least one value, none NaN.
std::vector<double> Percentiles(std::vector<double> values, absl::Span<const double> percents);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_PERCENTILE_H_
