#ifndef ATTUNE_SERVER_ADVICE_RETROSPECT_H_
#define ATTUNE_SERVER_ADVICE_RETROSPECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/advice/calibration.h"
#include "server/advice/evidence.h"
#include "server/advice/ranking.h"
#include "server/comparison/comparison.h"

namespace attune {

// Where advice would have been right or wrong about a comparison.
struct Retrospective {
  std::string comparison;                                       // id
  ContenderKind named = ContenderKind::kZeroShot;               // would have stood first
  ContenderKind best = ContenderKind::kZeroShot;                // had the best quality
  double expected = 0, expected_lower = 0, expected_upper = 0;  // of `named`
  double named_quality = 0;                                     // measured
  double best_quality = 0, best_lower = 0;                      // measured, and the lower end of its 95% interval
  bool was_right = false;               // named_quality >= best_lower: within one interval of the best
  int64_t ranges_held = 0, ranges = 0;  // tuned methods whose measured quality lay in the expected range, of all
  std::string text;                     // in plain words
  bool operator==(const Retrospective&) const = default;
};

// What would have been advised before the comparison, among its measured contenders but the hand-written prompt, with
// `evidence` of before it and rules that were calibrated without it. The cost of each is what it took.
// FAILED_PRECONDITION (COMPARISON_NOT_SUCCEEDED), or (NOTHING_MEASURED) if fewer than two were measured. Pure.
absl::StatusOr<Retrospective> LookBack(const RuleTable& table, Evidence evidence, const Needs& needs,
                                       const Comparison& comparison);

// The others of `past`: those that may teach the rules before looking back at `id`.
std::vector<PastComparison> Without(const std::vector<PastComparison>& past, const std::string& id);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_RETROSPECT_H_
