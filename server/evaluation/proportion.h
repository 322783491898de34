#ifndef ATTUNE_SERVER_EVALUATION_PROPORTION_H_
#define ATTUNE_SERVER_EVALUATION_PROPORTION_H_

#include <cstdint>

namespace attune {

// A share, or the mean of figures of 0 to 1, with its 95% interval.
struct Proportion {
  double value = 0, lower = 0, upper = 0;
  int64_t count = 0;
};

// Wilson's score interval (Wilson 1927). REQUIRES: 0 <= successes <= trials. All zero for
// no trials.
Proportion WilsonInterval(int64_t successes, int64_t trials);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROPORTION_H_
