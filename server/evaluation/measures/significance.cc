#include "server/evaluation/measures/significance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

// Sums that differ by rounding alone are equal.
constexpr double kRounding = 1e-12;

// The sum with the sign of each difference given by a bit.
double SignedSum(absl::Span<const double> differences, uint64_t signs) {
  double sum = 0;
  for (size_t i = 0; i < differences.size(); ++i) sum += signs >> i & 1 ? -differences[i] : differences[i];
  return sum;
}

double RandomlySignedSum(absl::Span<const double> differences, CounterRandom* random) {
  double sum = 0;
  for (size_t i = 0; i < differences.size(); i += 64) {
    sum += SignedSum(differences.subspan(i, 64), random->Bits());
  }
  return sum;
}

}  // namespace

double McNemarExact(int64_t first_only, int64_t second_only) {
  const int64_t n = first_only + second_only, k = std::min(first_only, second_only);
  // Twice the lower tail of a fair coin; in logarithms, since its terms underflow.
  double log_term = -n * std::log(2.0), tail = 0;
  for (int64_t i = 0; i <= k; ++i) {
    tail += std::exp(log_term);
    log_term += std::log(static_cast<double>(n - i) / (i + 1));
  }
  return std::min(1.0, 2 * tail);
}

double PermutationTest(absl::Span<const double> differences, int resamples, uint64_t seed) {
  double size = 0;
  for (double difference : differences) size += std::abs(difference);
  const double observed = std::abs(std::accumulate(differences.begin(), differences.end(), 0.0));
  const auto is_extreme = [&](double sum) { return std::abs(sum) >= observed - kRounding * size; };
  const size_t n = differences.size();
  int64_t extreme = 0;
  if (n < 31 && int64_t{1} << n <= resamples) {
    for (uint64_t signs = 0; signs < uint64_t{1} << n; ++signs) extreme += is_extreme(SignedSum(differences, signs));
    return std::ldexp(static_cast<double>(extreme), -static_cast<int>(n));
  }
  CounterRandom random(seed);
  for (int i = 0; i < resamples; ++i) extreme += is_extreme(RandomlySignedSum(differences, &random));
  return (extreme + 1.0) / (resamples + 1.0);
}

double BootstrapTest(int64_t count, const IndexStatistic& difference, const BootstrapOptions& options) {
  std::vector<int64_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  const double observed = std::abs(difference(all));
  const std::vector<double> samples = BootstrapSamples(count, difference, options);
  const double mean = std::accumulate(samples.begin(), samples.end(), 0.0) / samples.size();
  const int64_t extreme = std::count_if(samples.begin(), samples.end(), [&](double sample) {
    return std::abs(sample - mean) >= observed * (1 - kRounding);
  });
  return (extreme + 1.0) / (samples.size() + 1.0);
}

std::vector<double> HolmAdjust(absl::Span<const double> p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double least = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    least = std::max(least, std::min(1.0, p_values[order[rank]] * (order.size() - rank)));
    adjusted[order[rank]] = least;
  }
  return adjusted;
}

}  // namespace attune
