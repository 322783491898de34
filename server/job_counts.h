#ifndef ATTUNE_SERVER_JOB_COUNTS_H_
#define ATTUNE_SERVER_JOB_COUNTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/jobs/job_store.h"

namespace attune {

// How many jobs are in each state, by method, for a gauge. Counts anew only when
// something may have changed. Thread-safe.
class JobCounts {
 public:
  using Counts = std::map<std::pair<std::string, std::string>, int64_t>;  // {state, method} -> jobs

  // `store` must outlive this.
  explicit JobCounts(const JobStore* store) : store_(store) {}

  // Every state and method, zeros too.
  Counts Get() ABSL_LOCKS_EXCLUDED(mutex_);
  // A job came, went or changed its state.
  void Changed() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Recount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const JobStore* const store_;
  absl::Mutex mutex_;
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  bool changed_ ABSL_GUARDED_BY(mutex_) = true;
  absl::Time counted_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOB_COUNTS_H_
