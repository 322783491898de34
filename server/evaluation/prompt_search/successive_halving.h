#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SUCCESSIVE_HALVING_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SUCCESSIVE_HALVING_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "server/evaluation/measures/wilson.h"

// Finding the best of several arms (prompts) with few measurements (Jamieson and Talwalkar
// 2016): all meet a few rows, the better half meets more, and so on. Pure.
namespace attune {

struct HalvingOptions {
  int64_t rows = 0;         // there are
  int64_t first_rows = 16;  // that every arm meets
  double growth = 2;        // rows from one rung to the next, above 1
  int64_t finalists = 1;    // it ends when no more are left
};

// What is measured, by whom. Arms are numbers from 0.
struct HalvingArms {
  int64_t count = 0;
  // Has these arms meet the first `rows` rows; what an arm has met before need not be measured
  // again. False: the budget is used up, and some may not have met all. An error ends all.
  std::function<absl::StatusOr<bool>(const std::vector<int64_t>& arms, int64_t rows)> measure;
  // An arm's mean over those of the first `rows` rows that it met.
  std::function<Proportion(int64_t arm, int64_t rows)> estimate;
};

struct HalvingResult {
  int64_t arm = 0;
  int64_t rungs = 0;    // after which it was not dropped; what is not dropped stands before what is
  Proportion estimate;  // over the rows of its last rung
};

// After each rung an arm drops out that is in the lower half, or whose interval ends below the
// best one's. All arms, best first: by rungs, then by mean, then by number.
absl::StatusOr<std::vector<HalvingResult>> SuccessiveHalving(const HalvingOptions& options, const HalvingArms& arms);

// The most measurements of one row that this many arms take.
int64_t HalvingCost(const HalvingOptions& options, int64_t arms);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SUCCESSIVE_HALVING_H_
