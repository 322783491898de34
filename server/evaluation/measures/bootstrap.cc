#include "server/evaluation/measures/bootstrap.h"

#include <numeric>

#include "server/evaluation/measures/percentile.h"
#include "server/evaluation/measures/random.h"

namespace attune {

std::vector<double> BootstrapSamples(int64_t count, const IndexStatistic& statistic, const BootstrapOptions& options) {
  CounterRandom random(options.seed);
  std::vector<int64_t> indices(count);
  std::vector<double> samples(options.resamples);
  for (double& sample : samples) {
    for (int64_t& index : indices) index = random.Below(count);
    sample = statistic(indices);
  }
  return samples;
}

Interval BootstrapStatistic(int64_t count, const IndexStatistic& statistic, const BootstrapOptions& options) {
  std::vector<int64_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  Interval out;
  out.value = statistic(all);
  const double tail = 50 * (1 - options.confidence);
  const std::vector<double> ends = Percentiles(BootstrapSamples(count, statistic, options), {tail, 100 - tail});
  out.lower = ends[0];
  out.upper = ends[1];
  return out;
}

Interval BootstrapMean(absl::Span<const double> values, const BootstrapOptions& options) {
  const auto mean = [values](absl::Span<const int64_t> indices) {
    double sum = 0;
    for (int64_t index : indices) sum += values[index];
    return sum / indices.size();
  };
  return BootstrapStatistic(values.size(), mean, options);
}

}  // namespace attune
