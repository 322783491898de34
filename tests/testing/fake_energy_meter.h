#ifndef ATTUNE_TESTS_TESTING_FAKE_ENERGY_METER_H_
#define ATTUNE_TESTS_TESTING_FAKE_ENERGY_METER_H_

#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/device/energy_meter.h"

namespace attune {

// A meter that stands where a test sets it. Thread-safe.
class FakeEnergyMeter final : public EnergyMeter {
 public:
  std::optional<double> Joules() override ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    ++readings_;
    return joules_;
  }
  void Set(std::optional<double> joules) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    joules_ = joules;
  }
  int readings() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return readings_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::optional<double> joules_ ABSL_GUARDED_BY(mutex_) = 0;
  int readings_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_FAKE_ENERGY_METER_H_
