#ifndef ATTUNE_SERVER_JOBS_RUN_H_
#define ATTUNE_SERVER_JOBS_RUN_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/jobs/manager.h"

namespace attune {

// One run of one job: what its runner talks to, and what the manager keeps of it.
class JobManager::Run final : public JobControl {
 public:
  Run(JobManager* manager, Job job, std::shared_ptr<void> memory)
      : job(std::move(job)), memory(std::move(memory)), manager_(manager) {}

  StopRequest stop_request() const override;
  absl::Status SetRunning(const Hyperparameters& resolved, const DataReport& report) override;
  absl::Status ReportProgress(const JobProgress& progress) override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status ReportEvaluation(const JobProgress& progress) override ABSL_LOCKS_EXCLUDED(mutex_);
  void AddTrainingSeconds(double seconds) override ABSL_LOCKS_EXCLUDED(mutex_);
  void AddEnergy(double joules) override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status ReportCheckpoint(const Checkpoint& checkpoint) override;
  absl::Status RemoveCheckpoint(int64_t step) override;
  absl::StatusOr<std::vector<Checkpoint>> checkpoints() const override;
  absl::Status Log(absl::string_view message) override;

  // kCancel or kPause, as the job's row says.
  void SetStop(StopRequest request) { stop_ = request; }
  void SetShutdown() { shutdown_ = true; }

  // Stores what was reported last, if it can.
  void Flush() ABSL_LOCKS_EXCLUDED(mutex_);
  // What was reported and is still not stored.
  struct Unstored {
    std::optional<JobProgress> progress;
    DeviceUse use;
  };
  Unstored unstored() ABSL_LOCKS_EXCLUDED(mutex_);

  const Job job;                 // as it was when the run began
  std::shared_ptr<void> memory;  // the device memory it holds; the run's own thread drops it
  std::thread thread;            // under the manager's mutex_

 private:
  absl::Status Store(JobEvent::Type type, const JobProgress& progress) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  JobManager* const manager_;
  std::atomic<StopRequest> stop_ = StopRequest::kNone;
  std::atomic<bool> shutdown_ = false;

  // Held while the store is called, so never to be taken inside a store's transaction.
  absl::Mutex mutex_;
  Unstored unstored_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_stored_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_RUN_H_
