#ifndef ATTUNE_SERVER_COMPARISON_COMPARISON_MANAGER_H_
#define ATTUNE_SERVER_COMPARISON_COMPARISON_MANAGER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/comparison/comparison.h"
#include "server/comparison/comparison_run.h"

namespace attune {

// Checks what the words alone can tell: ids, at least two contenders, each once, a hand prompt where it is asked
// for, fractions and counts. INVALID_ARGUMENT naming each wrong field of the proto.
absl::Status ValidateComparisonSpec(const ComparisonSpec& spec);

// Queues comparisons and runs them one after the other, each on the thread that this owns; what was under way when a
// server ended goes on when the next one starts. Thread-safe.
class ComparisonManager {
 public:
  // What `deps` points to must outlive the manager.
  explicit ComparisonManager(const ComparisonDeps& deps) : deps_(deps) {}
  ~ComparisonManager() { Shutdown(); }
  ComparisonManager(const ComparisonManager&) = delete;
  ComparisonManager& operator=(const ComparisonManager&) = delete;

  void Start() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the run at hand, which is resumed by the next Start; watchers get UNAVAILABLE. May be called again.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mutex_);

  // Queues one; see ComparisonStore::Create. No contenders means all that need nothing but the data. NOT_FOUND for a
  // model or dataset, FAILED_PRECONDITION (BASE_IS_ADAPTER).
  absl::StatusOr<Comparison> Create(ComparisonSpec spec, absl::string_view request_id) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Comparison> Get(absl::string_view id) const { return deps_.store->Get(id); }
  absl::StatusOr<std::vector<Comparison>> List(int limit, int64_t before_position) const {
    return deps_.store->List(limit, before_position);
  }
  // Stops it for good, its running jobs too. FAILED_PRECONDITION (COMPARISON_ENDED).
  absl::StatusOr<Comparison> Cancel(absl::string_view id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes an ended one; its models, jobs and datasets stay.
  absl::Status Delete(absl::string_view id) { return deps_.store->Delete(id); }

  // The comparison as soon as its version is above `after_version`, or has ended; at `deadline` as it is. CANCELLED
  // once `cancelled` says so, which is asked at each wake-up.
  absl::StatusOr<Comparison> Wait(absl::string_view id, int64_t after_version, absl::Time deadline,
                                  const std::function<bool()>& cancelled) ABSL_LOCKS_EXCLUDED(mutex_);
  void WakeWatchers() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);
  void RunOne(const std::string& id) ABSL_LOCKS_EXCLUDED(mutex_);
  bool ShouldStop() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Cancels the jobs that its trials run.
  void CancelJobs(const Comparison& comparison);

  const ComparisonDeps deps_;
  mutable absl::Mutex mutex_;
  absl::CondVar wake_;      // the loop
  absl::CondVar watchers_;
  bool has_work_ ABSL_GUARDED_BY(mutex_) = true;
  bool is_stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_cancelled_ ABSL_GUARDED_BY(mutex_) = false;  // the one that runs
  std::string running_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_COMPARISON_MANAGER_H_
