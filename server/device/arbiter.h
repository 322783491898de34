#ifndef ATTUNE_SERVER_DEVICE_ARBITER_H_
#define ATTUNE_SERVER_DEVICE_ARBITER_H_

#include <array>
#include <cstdint>
#include <deque>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "server/device/memory_budget.h"

namespace attune {

enum class WorkClass { kGeneration = 0, kTraining = 1 };

// Whether others of the class may use the device in the same turn: for work that is too
// small to fill it.
enum class Sharing { kAlone, kShared };

// Grants turns on one device, one at a time, to generation (an engine step) and
// training (a micro-batch), and holds the device's memory budget.
//
// A class that wants the device while the other does not gets it at once.
// While both want it, time is kept: generation goes first, but once training
// has had less than `training_share` of the time that both wanted, training
// goes first. So neither starves, and turns may be of any length.
//
// Generation may be patient: a step that need not come before some time lets training go first, or on,
// as long as a piece of training is expected to end before that time (how long pieces take is learned as
// they come). Training offers to pause wherever it can, between two layers say, so that a piece is
// short, whatever the size of a micro-batch.
//
// A class takes a moment between its turns (sampling, packing), in which it
// does not wait. So that the other does not slip in each time, the device stays
// free for up to `handover_gap` for a class that has just given up its turn and
// would be the next. Within a class, turns go in the order of asking. Callers that
// share join a shared turn of their class that runs, until the other class waits;
// its time counts once. Thread-safe.
class Arbiter {
 public:
  struct Options {
    // Least share of the contended time that training gets, 0 to 1.
    double training_share = 0.5;
    absl::Duration handover_gap = absl::Milliseconds(2);
    // Neither class can be owed more device time than this.
    absl::Duration max_owed = absl::Seconds(5);
    // Device memory for models, caches and jobs.
    int64_t memory_bytes = 0;
  };

  // The right to use the device until destroyed, released or moved from. May be
  // given up by another thread than the one that got it.
  class Turn {
   public:
    Turn() = default;
    Turn(Turn&& other) noexcept;
    Turn& operator=(Turn&& other) noexcept;
    ~Turn() { Release(); }
    void Release();
    // Whether to give the turn up here and ask for another, because generation is to go first. Never
    // for a shared turn. Device work must have finished, as when the turn is given up.
    bool ShouldPause() { return arbiter_ != nullptr && arbiter_->ShouldPause(work_); }
    // A piece ends here of which nothing is to be learned: the device was not waited for.
    void SkipPiece() {
      if (arbiter_ != nullptr) arbiter_->SkipPiece();
    }
    // Of generation's: how long after the time that it had patience until, or after it was asked for if that
    // was later, it began.
    absl::Duration lateness() const { return lateness_; }

   private:
    friend class Arbiter;
    Turn(Arbiter* arbiter, WorkClass work) : arbiter_(arbiter), work_(work) {}
    Arbiter* arbiter_ = nullptr;
    WorkClass work_ = WorkClass::kGeneration;
    absl::Duration lateness_;
  };

  // `clock` must outlive the arbiter, the arbiter its turns.
  Arbiter(const Clock* clock, const Options& options);
  Arbiter(const Arbiter&) = delete;
  Arbiter& operator=(const Arbiter&) = delete;

  // Blocks until it is this caller's turn, alone or shared. A thread that holds a turn must not
  // ask for another. Work on the device must have finished (be synchronized)
  // when the turn is given up, or the seconds are wrong.
  // `patience`, of generation: how long after its last turn this one may begin.
  Turn Acquire(WorkClass work, Sharing sharing = Sharing::kAlone, absl::Duration patience = absl::ZeroDuration())
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether generation wants the device, or did a moment ago: then training's pieces should be waited
  // for one by one, so that pauses come in time.
  bool IsGenerating() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Device seconds of the class's turns that have ended.
  double Seconds(WorkClass work) const ABSL_LOCKS_EXCLUDED(mutex_);
  // The class's turns so far.
  int64_t Turns(WorkClass work) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Callers blocked in Acquire.
  int Waiting(WorkClass work) const ABSL_LOCKS_EXCLUDED(mutex_);

  MemoryBudget& memory() { return memory_; }
  const MemoryBudget& memory() const { return memory_; }

 private:
  struct PerClass {
    std::deque<int64_t> waiting;  // tickets, in order
    absl::Duration used;
    int64_t turns = 0;
  };

  PerClass& Of(WorkClass work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return classes_[static_cast<int>(work)]; }
  void GiveUp(WorkClass work) ABSL_LOCKS_EXCLUDED(mutex_);
  bool ShouldPause(WorkClass work) ABSL_LOCKS_EXCLUDED(mutex_);
  void SkipPiece() ABSL_LOCKS_EXCLUDED(mutex_);
  // What training is owed once the turn that runs has taken until `now`.
  absl::Duration OwedAt(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NotePiece(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The class that goes first if both want the device.
  WorkClass Preferred(absl::Duration owed) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsNext(WorkClass work, Sharing sharing, int64_t ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock* const clock_;
  const Options options_;
  MemoryBudget memory_;

  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::array<PerClass, 2> classes_ ABSL_GUARDED_BY(mutex_);
  int64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  int holders_ ABSL_GUARDED_BY(mutex_) = 0;  // of the turn that runs
  WorkClass held_by_ ABSL_GUARDED_BY(mutex_) = WorkClass::kGeneration;
  Sharing held_ ABSL_GUARDED_BY(mutex_) = Sharing::kAlone;
  absl::Time turn_start_ ABSL_GUARDED_BY(mutex_);
  absl::Time booked_until_ ABSL_GUARDED_BY(mutex_);  // of the turn's time, into `used`
  // Since when the other class waits for a shared turn to end, which may have run for long.
  absl::Time wanted_since_ ABSL_GUARDED_BY(mutex_);
  // Until then, only `kept_for_` may take the free device.
  absl::Time kept_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  WorkClass kept_for_ ABSL_GUARDED_BY(mutex_) = WorkClass::kGeneration;
  // When generation's turn ended, and until when the one that it waits for may be put off, or is expected to
  // where it has not asked yet.
  absl::Time generated_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time due_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration patience_ ABSL_GUARDED_BY(mutex_);  // that it had last
  // A piece of training: when it began, and about the longest that they have taken lately.
  absl::Time piece_start_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration piece_ ABSL_GUARDED_BY(mutex_);
  // Contended time that training lacks to its share; negative: has too much.
  absl::Duration owed_to_training_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DEVICE_ARBITER_H_
