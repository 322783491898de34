#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_SIGNIFICANCE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_SIGNIFICANCE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/evaluation/measures/bootstrap.h"

// Two-sided tests of two methods on the same examples, and what to do with many of them. A p-value is how
// often methods that do not differ would look at least this different.
namespace attune {

// Exact McNemar test (McNemar 1947, binomial): of examples that one method alone gets right,
// `first_only` and `second_only` are the counts.
double McNemarExact(int64_t first_only, int64_t second_only);

// Paired permutation test of a mean difference (Fisher 1935): signs of the differences are flipped, in all ways
// if `resamples` suffice for that, else at random (then at least 1 / (resamples + 1), Phipson and Smyth 2010).
// 1 for no differences.
double PermutationTest(absl::Span<const double> differences, int resamples, uint64_t seed);

// Paired bootstrap test (shifted to the null as by Riezler and Maxwell 2005) for figures of a whole corpus,
// such as the difference of two BLEU scores, that are no means of examples. REQUIRES: as BootstrapStatistic.
double BootstrapTest(int64_t count, const IndexStatistic& difference, const BootstrapOptions& options);

// Holm's correction (1979) of a family of p-values, in their order: reject those below alpha, and the
// chance of any false rejection is at most alpha.
std::vector<double> HolmAdjust(absl::Span<const double> p_values);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_SIGNIFICANCE_H_
