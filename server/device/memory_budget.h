#ifndef ATTUNE_SERVER_DEVICE_MEMORY_BUDGET_H_
#define ATTUNE_SERVER_DEVICE_MEMORY_BUDGET_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace attune {

// Counts who has promised to use how much of a device's memory. Allocates
// nothing itself. Thread-safe.
class MemoryBudget {
 public:
  // Bytes taken from the budget until destroyed, released or moved from. Must
  // not outlive the budget. Not thread-safe itself.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept;
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(); }
    int64_t bytes() const { return bytes_; }
    void Release();

   private:
    friend class MemoryBudget;
    Reservation(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
    MemoryBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  explicit MemoryBudget(int64_t total_bytes) : total_(total_bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // Takes `bytes` (at least 0) for `what`, which an error names. Never blocks:
  // RESOURCE_EXHAUSTED (OUT_OF_MEMORY_BUDGET) if fewer are free.
  absl::StatusOr<Reservation> Reserve(int64_t bytes, absl::string_view what) ABSL_LOCKS_EXCLUDED(mutex_);

  int64_t total() const { return total_; }
  int64_t used() const ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t available() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void GiveBack(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  const int64_t total_;
  mutable absl::Mutex mutex_;
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DEVICE_MEMORY_BUDGET_H_
