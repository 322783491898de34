#include "server/evaluation/measures/percentile.h"

#include <algorithm>

namespace attune {

std::vector<double> Percentiles(std::vector<double> values, absl::Span<const double> percents) {
  std::sort(values.begin(), values.end());
  std::vector<double> out;
  for (double percent : percents) {
    const double place = percent / 100 * (values.size() - 1);
    const size_t below = static_cast<size_t>(place), above = std::min(below + 1, values.size() - 1);
    out.push_back(values[below] + (place - below) * (values[above] - values[below]));
  }
  return out;
}

}  // namespace attune
