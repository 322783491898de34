#include <algorithm>
#include <cmath>

#include "server/evaluation/proportion.h"

namespace attune {

Proportion WilsonInterval(int64_t successes, int64_t trials) {
  Proportion out;
  if (trials == 0) return out;
  constexpr double kZ = 1.959963984540054;  // the normal distribution's 97.5% quantile
  const double n = static_cast<double>(trials), p = successes / n, z2 = kZ * kZ;
  const double scale = 1 / (1 + z2 / n);
  const double centre = scale * (p + z2 / (2 * n));
  const double half = scale * kZ * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  out.value = p;
  // At the ends the bound is the end itself, which rounding would miss.
  out.lower = successes == 0 ? 0 : std::max(0.0, centre - half);
  out.upper = successes == trials ? 1 : std::min(1.0, centre + half);
  out.count = trials;
  return out;
}

}  // namespace attune
