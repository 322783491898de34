#include "server/evaluation/measures/paired_comparison.h"

#include <algorithm>
#include <vector>

#include "server/evaluation/measures/significance.h"

namespace attune {
namespace {

BootstrapOptions ForBootstrap(const PairedOptions& options) {
  return {options.resamples, 1 - options.alpha, options.seed};
}

bool IsBinary(absl::Span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return value == 0 || value == 1; });
}

}  // namespace

Verdict Judge(const Interval& difference, double p_value, double alpha) {
  if (!(p_value < alpha)) return Verdict::kTied;
  if (difference.lower > 0) return Verdict::kFirst;
  return difference.upper < 0 ? Verdict::kSecond : Verdict::kTied;
}

PairedComparison ComparePaired(absl::Span<const double> first, absl::Span<const double> second,
                         const PairedOptions& options) {
  std::vector<double> differences;
  for (size_t i = 0; i < first.size(); ++i) differences.push_back(first[i] - second[i]);
  PairedComparison out;
  out.difference = BootstrapMean(differences, ForBootstrap(options));
  if (IsBinary(first) && IsBinary(second)) {
    out.p_value = McNemarExact(std::count(differences.begin(), differences.end(), 1.0),
                               std::count(differences.begin(), differences.end(), -1.0));
  } else {
    out.p_value = PermutationTest(differences, options.resamples, options.seed);
  }
  out.verdict = Judge(out.difference, out.p_value, options.alpha);
  return out;
}

PairedComparison CompareStatistics(int64_t count, const IndexStatistic& first, const IndexStatistic& second,
                             const PairedOptions& options) {
  const auto difference = [&](absl::Span<const int64_t> indices) { return first(indices) - second(indices); };
  PairedComparison out;
  out.difference = BootstrapStatistic(count, difference, ForBootstrap(options));
  out.p_value = BootstrapTest(count, difference, ForBootstrap(options));
  out.verdict = Judge(out.difference, out.p_value, options.alpha);
  return out;
}

}  // namespace attune
