#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_WILSON_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_WILSON_H_

#include <cstdint>

namespace attune {

// A share with its 95% Wilson score interval (Wilson 1927).
struct Proportion {
  double value = 0, lower = 0, upper = 0;
  int64_t count = 0;
};
// REQUIRES: 0 <= successes <= trials. All zero for no trials.
Proportion WilsonInterval(int64_t successes, int64_t trials);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_WILSON_H_
