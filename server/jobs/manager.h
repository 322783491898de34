#ifndef ATTUNE_SERVER_JOBS_MANAGER_H_
#define ATTUNE_SERVER_JOBS_MANAGER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "server/jobs/job.h"
#include "server/jobs/job_store.h"
#include "server/jobs/policy.h"
#include "server/jobs/runner_interface.h"

namespace attune {

// Queues tuning jobs, runs them when their turn comes and tells watchers what
// happens. All that matters is in the JobStore; what is here is threads, so a
// killed server loses nothing. Thread-safe.
class JobManager {
 public:
  struct Options {
    int max_concurrent_jobs = 1;
    // Jobs of this long ago still count in the fair share between tenants.
    absl::Duration fair_share_window = absl::Hours(24);
    // See policy.h.
    absl::Duration patience = absl::Minutes(10);
    // A running job's progress is stored at most this often.
    absl::Duration progress_interval = absl::Seconds(1);

    // Device memory in bytes: the whole budget for jobs, and what is free of it
    // now, with what running jobs hold taken off. Null: unlimited.
    std::function<int64_t()> total_memory;
    std::function<int64_t()> free_memory;
    // Takes memory for a run; the token's destruction gives it back. An error
    // leaves the job queued. Null: not reserved.
    std::function<absl::StatusOr<std::shared_ptr<void>>(int64_t bytes)> reserve_memory;

    // Removes the files of a job's checkpoints, before the job is deleted. Null: nothing to do.
    std::function<absl::Status(const Job& job)> delete_files;
    // Told of every change of state after it is stored, from any thread; must
    // not call the manager. from == to == kQueued for a new job. Null: nobody.
    std::function<void(const Job& job, JobState from, JobState to)> on_transition;
  };

  // All pointers must outlive the manager.
  JobManager(JobStore* store, JobRunner* runner, const Clock* clock, Options options);
  // Shuts down.
  ~JobManager();
  JobManager(const JobManager&) = delete;
  JobManager& operator=(const JobManager&) = delete;

  // Recovers what a dead server left, then starts to run jobs. Call once.
  absl::Status Start() ABSL_LOCKS_EXCLUDED(lifecycle_mutex_, command_mutex_, mutex_);

  // Stops admitting and starting jobs, asks the running ones to save a
  // checkpoint and puts them back into the queue ("server stopped"). Returns
  // when no job runs and every watcher was told. May be called again.
  void Shutdown() ABSL_LOCKS_EXCLUDED(lifecycle_mutex_, command_mutex_, mutex_);

  // Validates, estimates and queues; see JobStore::Create. RESOURCE_EXHAUSTED
  // (JOB_TOO_LARGE) if it needs more memory than the whole device has;
  // UNAVAILABLE (SHUTTING_DOWN).
  absl::StatusOr<Job> Create(const JobSpec& spec, absl::string_view request_id)
      ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);

  struct Estimate {
    JobEstimate estimate;
    int64_t available_memory_bytes = 0;  // INT64_MAX: unlimited
    bool admissible = false;             // fits the whole device
  };
  // Validates and estimates, queues nothing.
  absl::StatusOr<Estimate> EstimateJob(const JobSpec& spec);

  absl::StatusOr<Job> Get(absl::string_view id) const { return store_->Get(id); }
  absl::StatusOr<std::vector<Job>> List(int limit, int64_t before_position, const JobStore::Filter& filter) const {
    return store_->List(limit, before_position, filter);
  }
  absl::StatusOr<std::vector<Checkpoint>> ListCheckpoints(absl::string_view id) const {
    return store_->ListCheckpoints(id);
  }

  // The commands below act on the newest view of the job only if `etag` is empty
  // or the job's: else ABORTED (ETAG_MISMATCH). They return the job as it is
  // then: one that runs is still RUNNING (or PREPARING) with stop_requested set
  // and follows within one step.

  // Stops for good. FAILED_PRECONDITION (JOB_ENDED) if it has ended.
  absl::StatusOr<Job> Cancel(absl::string_view id, absl::string_view etag)
      ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  // Stops until Resume; OK if it is paused already. FAILED_PRECONDITION
  // (JOB_ENDED, or JOB_CANCELLING if it was told to cancel).
  absl::StatusOr<Job> Pause(absl::string_view id, absl::string_view etag) ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  // Queues a paused job again. FAILED_PRECONDITION (JOB_NOT_PAUSED).
  absl::StatusOr<Job> Resume(absl::string_view id, absl::string_view etag)
      ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  // Removes an ended job with its files. FAILED_PRECONDITION (JOB_NOT_ENDED), (JOB_IN_USE) while an unfinished job starts
  // from one of its checkpoints.
  absl::Status Delete(absl::string_view id, absl::string_view etag) ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);

  struct EventBatch {
    std::vector<JobEvent> events;  // in order, at most 1000
    bool ended = false;            // the job is in a final state and these are its last events
  };
  // Events above `after_sequence`. Blocks until there are some, the job has
  // ended or `deadline` (of the machine's clock) has come: then OK without
  // events. CANCELLED once `cancelled` (may be null) says so; it is asked at
  // each wake-up, see WakeWatchers. UNAVAILABLE (SHUTTING_DOWN) after Shutdown
  // when there is nothing more to tell.
  absl::StatusOr<EventBatch> WaitForEvents(absl::string_view id, int64_t after_sequence, absl::Time deadline,
                                           const std::function<bool()>& cancelled = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Makes every WaitForEvents ask its `cancelled` again.
  void WakeWatchers() ABSL_LOCKS_EXCLUDED(mutex_);

  // To be called when device memory became free other than by a job's end.
  void CapacityChanged() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class Run;

  absl::StatusOr<JobEstimate> CheckedEstimate(const JobSpec& spec);
  int64_t TotalMemory() const { return options_.total_memory ? options_.total_memory() : INT64_MAX; }
  int64_t FreeMemory() const { return options_.free_memory ? options_.free_memory() : INT64_MAX; }

  void DispatchLoop() ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  // An error means that it should be tried again soon.
  absl::Status StartJobs() ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  absl::StatusOr<QueueSnapshot> Snapshot() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether it started: it may have been paused meanwhile, or the memory be gone.
  absl::StatusOr<bool> StartJob(const std::string& id, int64_t memory_bytes)
      ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  void RunJob(const std::shared_ptr<Run>& run) ABSL_LOCKS_EXCLUDED(command_mutex_, mutex_);
  // Stores how a run ended, with patience for a full disk.
  void FinishJob(Run& run, const absl::StatusOr<JobOutcome>& outcome) ABSL_LOCKS_EXCLUDED(mutex_);
  // Updates the store and tells listener and watchers.
  absl::StatusOr<Job> Update(absl::string_view id, absl::string_view etag,
                             const std::function<absl::Status(Job&)>& change) ABSL_LOCKS_EXCLUDED(mutex_);
  void Announce(const Job& job, JobState from) ABSL_LOCKS_EXCLUDED(mutex_);
  void EventAppended(absl::string_view id) ABSL_LOCKS_EXCLUDED(mutex_);
  void WakeDispatcher() ABSL_LOCKS_EXCLUDED(mutex_);
  // Passes the stored stop request on to the job's run, if it has one.
  void ForwardStop(const Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(command_mutex_) ABSL_LOCKS_EXCLUDED(mutex_);
  bool stopping() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits a second before a failed write is tried again; false if the server stops.
  bool WaitToRetry() ABSL_LOCKS_EXCLUDED(mutex_);

  JobStore* const store_;
  JobRunner* const runner_;
  const Clock* const clock_;
  const Options options_;

  // Held over a command or a start, from the store's change to the run that it
  // concerns, so that a stop request can never reach a later run of the job.
  absl::Mutex command_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);

  mutable absl::Mutex mutex_;
  absl::CondVar dispatcher_wake_;
  absl::CondVar watchers_wake_;
  absl::CondVar run_ended_;
  bool dispatch_needed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Run>> runs_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> finished_threads_ ABSL_GUARDED_BY(mutex_);
  // Counts each job's events since the start, so that a watcher looks into the
  // store only when its own job has something new.
  std::map<std::string, int64_t> event_counts_ ABSL_GUARDED_BY(mutex_);
  int64_t watcher_wakes_ ABSL_GUARDED_BY(mutex_) = 0;

  absl::Mutex lifecycle_mutex_ ABSL_ACQUIRED_BEFORE(command_mutex_);
  std::thread dispatcher_ ABSL_GUARDED_BY(lifecycle_mutex_);
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_MANAGER_H_
