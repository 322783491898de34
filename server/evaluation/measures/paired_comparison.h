#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_PAIRED_COMPARISON_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_PAIRED_COMPARISON_H_

#include <cstdint>

#include "absl/types/span.h"
#include "server/evaluation/measures/bootstrap.h"

namespace attune {

enum class Verdict {
  kTied,  // the examples do not tell which is better
  kFirst,
  kSecond,
};

// Two methods on the same examples; the first's figure less the second's.
struct PairedComparison {
  Interval difference;  // paired bootstrap
  double p_value = 1;   // two-sided
  Verdict verdict = Verdict::kTied;
};

struct PairedOptions {
  double alpha = 0.05;
  int resamples = 10000;
  uint64_t seed = 0;
};

// Who is better, if higher is: kTied unless the p-value is below alpha and the interval has no zero.
// With several comparisons give p-values that HolmAdjust() made.
Verdict Judge(const Interval& difference, double p_value, double alpha);

// Of examples' own figures: exact McNemar test if all of them are 0 or 1, else a permutation test.
// REQUIRES: as many of one as of the other, at least one.
PairedComparison ComparePaired(absl::Span<const double> first, absl::Span<const double> second,
                         const PairedOptions& options);

// Of figures that belong to a whole set of examples, such as corpus BLEU or macro-F1: paired bootstrap test.
// REQUIRES: as BootstrapStatistic.
PairedComparison CompareStatistics(int64_t count, const IndexStatistic& first, const IndexStatistic& second,
                             const PairedOptions& options);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_PAIRED_COMPARISON_H_
