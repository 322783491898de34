#ifndef ATTUNE_SERVER_COMPARISON_VERDICT_H_
#define ATTUNE_SERVER_COMPARISON_VERDICT_H_

#include <vector>

#include "server/comparison/comparison.h"

namespace attune {

// Ranks the measured contenders by quality, says whom the test part does not tell from the best (paired test on the
// same examples, Holm-corrected, see measures/paired_comparison.h), chooses the winner and says why in plain words.
// The winner is the best, unless one that is not told apart from it is far cheaper: its trials took less than half the
// device time, or about as much and it is less than a quarter as large, where size matters (above 16 MiB).
// `scores`: by contender, its figure on each test example, in the same order (0 or 1 for right answers); empty where it
// was not measured. The contenders' measures must be there. Pure.
void Decide(const std::vector<std::vector<double>>& scores, Comparison* comparison);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_VERDICT_H_
