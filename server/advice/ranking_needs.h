#ifndef ATTUNE_SERVER_ADVICE_RANKING_NEEDS_H_
#define ATTUNE_SERVER_ADVICE_RANKING_NEEDS_H_

#include "server/advice/evidence.h"
#include "server/advice/ranking.h"

namespace attune {

// How needs weigh on one method.
struct NeedsEffect {
  int broken = 0;      // needs that it breaks; kLast: it is out
  double penalty = 0;  // in quality
};
inline constexpr int kLast = 100;

// Looks at each need, and adds a reason for each that speaks for or against the method. `recommendation` has its
// figures already. Pure.
NeedsEffect WeighNeeds(const Evidence& evidence, const Needs& needs, Recommendation* recommendation);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_RANKING_NEEDS_H_
