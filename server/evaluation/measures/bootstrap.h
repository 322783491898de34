#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_BOOTSTRAP_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_BOOTSTRAP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"

namespace attune {

struct BootstrapOptions {
  int resamples = 2000;
  double confidence = 0.95;
  uint64_t seed = 0;  // same seed, same result, on any platform
};

struct Interval {
  double value = 0, lower = 0, upper = 0;
};

// A figure computed from the examples of these indices, of which some may come several times.
using IndexStatistic = std::function<double(absl::Span<const int64_t> indices)>;

// The statistic of `count` examples, drawn with replacement, once for each resample.
std::vector<double> BootstrapSamples(int64_t count, const IndexStatistic& statistic, const BootstrapOptions& options);

// Percentile interval (Efron 1979): the middle `confidence` of the resamples. Its value is the statistic of
// all examples. Too narrow below some 20 examples. REQUIRES: count >= 1; the statistic is never NaN.
Interval BootstrapStatistic(int64_t count, const IndexStatistic& statistic, const BootstrapOptions& options);

// The same for the values' mean. REQUIRES: at least one value.
Interval BootstrapMean(absl::Span<const double> values, const BootstrapOptions& options);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_BOOTSTRAP_H_
