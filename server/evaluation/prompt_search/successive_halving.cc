#include "server/evaluation/prompt_search/successive_halving.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "common/error.h"

namespace attune {
namespace {

int64_t NextRows(const HalvingOptions& options, int64_t rows) {
  return std::min<int64_t>(options.rows, std::max<int64_t>(rows + 1, std::llround(rows * options.growth)));
}

int64_t Kept(const HalvingOptions& options, int64_t alive) {
  return std::max<int64_t>(std::max<int64_t>(1, options.finalists), (alive + 1) / 2);
}

bool IsBetter(const HalvingResult& a, const HalvingResult& b) {
  return std::tuple(-a.rungs, -a.estimate.value, a.arm) < std::tuple(-b.rungs, -b.estimate.value, b.arm);
}

// Those that go on, of arms that have met the same rows.
std::vector<int64_t> Survivors(const HalvingOptions& options, std::vector<HalvingResult> alive) {
  std::sort(alive.begin(), alive.end(), IsBetter);
  const int64_t kept = Kept(options, static_cast<int64_t>(alive.size()));
  std::vector<int64_t> out;
  for (const HalvingResult& arm : alive) {
    if (static_cast<int64_t>(out.size()) == kept || arm.estimate.upper < alive[0].estimate.lower) break;
    out.push_back(arm.arm);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<HalvingResult>> SuccessiveHalving(const HalvingOptions& options, const HalvingArms& arms) {
  std::vector<HalvingResult> results(arms.count);
  for (int64_t i = 0; i < arms.count; ++i) results[i].arm = i;
  std::vector<int64_t> alive(arms.count);
  std::iota(alive.begin(), alive.end(), 0);
  int64_t rows = std::min(options.rows, options.first_rows);
  while (!alive.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(bool complete, arms.measure(alive, rows));
    std::vector<HalvingResult> rung;
    for (int64_t arm : alive) {
      results[arm].estimate = arms.estimate(arm, rows);
      rung.push_back(results[arm]);
    }
    if (!complete || rows == options.rows) break;
    alive = Survivors(options, std::move(rung));
    for (int64_t arm : alive) ++results[arm].rungs;
    if (static_cast<int64_t>(alive.size()) <= options.finalists) break;
    rows = NextRows(options, rows);
  }
  std::sort(results.begin(), results.end(), IsBetter);
  return results;
}

int64_t HalvingCost(const HalvingOptions& options, int64_t arms) {
  int64_t rows = std::min(options.rows, options.first_rows), met = 0, cost = 0;
  while (true) {
    cost += arms * (rows - met);
    if (rows == options.rows) return cost;
    const int64_t kept = Kept(options, arms);
    if (kept <= options.finalists || kept >= arms) return cost;
    arms = kept;
    met = rows;
    rows = NextRows(options, rows);
  }
}

}  // namespace attune
