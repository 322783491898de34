#ifndef ATTUNE_COMMON_CLOCK_H_
#define ATTUNE_COMMON_CLOCK_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace attune {

// Where code gets the time from, so that tests can set it. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
  // The machine's clock; lives for ever.
  static const Clock& Real();
};

}  // namespace attune

#endif  // ATTUNE_COMMON_CLOCK_H_
