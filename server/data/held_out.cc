#include "server/data/held_out.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace attune {

int64_t HeldOutCount(double fraction, int64_t rows) {
  if (fraction < 0 || rows < 2) return 0;
  const int64_t count = fraction > 0 ? std::llround(std::ceil(fraction * rows))
                                     : std::min<int64_t>(500, std::llround(std::ceil(0.1 * rows)));
  return std::min(count, rows - 1);
}

std::vector<bool> ChooseHeldOut(int64_t rows, int64_t count, uint64_t seed) {
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed ^ 0x5EEDBA5EULL);
  for (int64_t i = rows - 1; i > 0; --i) std::swap(order[i], order[random() % static_cast<uint64_t>(i + 1)]);
  std::vector<bool> held(rows, false);
  for (int64_t i = 0; i < count; ++i) held[order[i]] = true;
  return held;
}

}  // namespace attune
