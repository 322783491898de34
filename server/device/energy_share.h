#ifndef ATTUNE_SERVER_DEVICE_ENERGY_SHARE_H_
#define ATTUNE_SERVER_DEVICE_ENERGY_SHARE_H_

#include <optional>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "server/device/energy_meter.h"

namespace attune {

// Divides the device's energy between the jobs that compute. The meter counts the whole device, so this is a rule, not a
// measurement: at every moment the jobs that are in a step, an evaluation or a search have equal parts, however much each
// of them has to do. What the device uses while no job computes is nobody's; what it uses for requests, or for other
// processes, while one does is that job's, as a step's time is its too. The device's idle power is part of it.
//
// Meters are slow to read and advance by jumps (an H100's: 4 ms, ten times a second), and steps may be short: so the
// meter is read at most every `kReadInterval`, and power counts as constant in between. A job's figure is uncertain by
// what the device uses in such a jump, at its beginning and its end. Thread-safe.
class EnergyShare {
 public:
  static constexpr absl::Duration kReadInterval = absl::Seconds(1);

  // Both must outlive this. `meter` may be null: then nothing is told.
  EnergyShare(EnergyMeter* meter, const Clock* clock);
  EnergyShare(const EnergyShare&) = delete;
  EnergyShare& operator=(const EnergyShare&) = delete;

  // One job's. Not thread-safe itself.
  class Part {
   public:
    // `share`, which may be null, must outlive this; then nothing is told.
    explicit Part(EnergyShare* share);
    ~Part();
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

    // The job computes from here, until Leave. No more than once each in turn; the part's end leaves, too.
    void Enter();
    void Leave();
    // Joules since the last call, as far as the meter was read; nothing where the device does not tell.
    std::optional<double> Take();
    // The same, with the meter read now: for the job's end.
    std::optional<double> TakeAll();

   private:
    friend class EnergyShare;
    EnergyShare* const share_;
    // Under the share's mutex.
    bool computes_ = false;
    absl::Duration unread_;  // its time since the meter was read, other jobs' parts taken off
    std::optional<double> joules_;
  };

 private:
  // Counts the time until now for the jobs that compute.
  absl::Time Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives out what was used since the meter was read last, if that is `interval` ago at least.
  void Read(absl::Time now, absl::Duration interval) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetComputes(Part* part, bool computes) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<double> Take(Part* part, bool reads) ABSL_LOCKS_EXCLUDED(mutex_);

  EnergyMeter* const meter_;
  const Clock* const clock_;
  absl::Mutex mutex_;  // the meter's is taken inside
  std::set<Part*> parts_ ABSL_GUARDED_BY(mutex_);
  int computing_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time counted_until_ ABSL_GUARDED_BY(mutex_), read_at_ ABSL_GUARDED_BY(mutex_);
  std::optional<double> read_ ABSL_GUARDED_BY(mutex_);  // joules, then
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DEVICE_ENERGY_SHARE_H_
