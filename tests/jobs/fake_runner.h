#ifndef ATTUNE_TESTS_JOBS_FAKE_RUNNER_H_
#define ATTUNE_TESTS_JOBS_FAKE_RUNNER_H_

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "server/jobs/runner_interface.h"

namespace attune {

// Runs whatever a test scripted for a job, else succeeds at once. Thread-safe.
class FakeRunner final : public JobRunner {
 public:
  using Script = std::function<absl::StatusOr<JobOutcome>(const Job&, JobControl&)>;

  void SetScript(std::string id, Script script) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    scripts_[std::move(id)] = std::move(script);
  }
  // Of jobs without a script of their own.
  void SetDefault(Script script) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    default_ = std::move(script);
  }
  void SetEstimate(absl::StatusOr<JobEstimate> estimate) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    estimate_ = std::move(estimate);
  }
  // Ids in the order of their starts.
  std::vector<std::string> started() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return started_;
  }
  int most_at_once() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return most_at_once_;
  }

  absl::StatusOr<JobOutcome> Run(const Job& job, JobControl& control) override ABSL_LOCKS_EXCLUDED(mutex_) {
    Script script = Begin(job.spec.id);
    absl::StatusOr<JobOutcome> outcome = script(job, control);
    absl::MutexLock lock(&mutex_);
    --running_;
    return outcome;
  }

  absl::StatusOr<JobEstimate> Estimate(const JobSpec&) override ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return estimate_;
  }

  // Scripts.
  static absl::StatusOr<JobOutcome> Succeed(const Job& job, JobControl& control) {
    if (absl::Status status = control.SetRunning({}, {}); !status.ok()) return status;
    return JobOutcome{JobOutcome::Kind::kSucceeded, job.spec.tuned_model_id};
  }
  static absl::StatusOr<JobOutcome> RunUntilStopped(const Job& job, JobControl& control) {
    if (absl::Status status = control.SetRunning({}, {}); !status.ok()) return status;
    while (control.stop_request() == StopRequest::kNone) std::this_thread::yield();
    return JobOutcome{JobOutcome::Kind::kStopped, ""};
  }

 private:
  Script Begin(const std::string& id) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    started_.push_back(id);
    most_at_once_ = std::max(most_at_once_, ++running_);
    auto script = scripts_.find(id);
    return script == scripts_.end() ? default_ : script->second;
  }

  mutable absl::Mutex mutex_;
  std::map<std::string, Script> scripts_ ABSL_GUARDED_BY(mutex_);
  Script default_ ABSL_GUARDED_BY(mutex_) = &Succeed;
  absl::StatusOr<JobEstimate> estimate_ ABSL_GUARDED_BY(mutex_) = JobEstimate();
  std::vector<std::string> started_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int most_at_once_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_JOBS_FAKE_RUNNER_H_
