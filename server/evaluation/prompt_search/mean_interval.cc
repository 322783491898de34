#include "server/evaluation/prompt_search/mean_interval.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace attune {
namespace {

Proportion EmpiricalBernstein(const std::vector<double>& values) {
  Proportion out;
  const double n = static_cast<double>(values.size());
  out.count = static_cast<int64_t>(values.size());
  out.value = std::accumulate(values.begin(), values.end(), 0.0) / n;
  out.upper = 1;
  if (values.size() < 2) return out;
  double squares = 0;
  for (double value : values) squares += (value - out.value) * (value - out.value);
  const double log_term = std::log(2 / 0.025);  // 2.5% at each side
  const double half = std::sqrt(2 * squares / (n - 1) * log_term / n) + 7 * log_term / (3 * (n - 1));
  out.lower = std::max(0.0, out.value - half);
  out.upper = std::min(1.0, out.value + half);
  return out;
}

}  // namespace

Proportion MeanInterval(const std::vector<double>& values) {
  const auto is = [&](double wanted) { return std::count(values.begin(), values.end(), wanted); };
  const int64_t ones = is(1), zeros = is(0);
  if (ones + zeros == static_cast<int64_t>(values.size())) return WilsonInterval(ones, ones + zeros);
  return EmpiricalBernstein(values);
}

}  // namespace attune
