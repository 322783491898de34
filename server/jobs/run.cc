#include "server/jobs/run.h"

#include <utility>
#include <variant>

namespace attune {

StopRequest JobManager::Run::stop_request() const {
  const StopRequest stop = stop_;
  return stop == StopRequest::kNone && shutdown_ ? StopRequest::kShutdown : stop;
}

absl::Status JobManager::Run::SetRunning(const Hyperparameters& resolved, const DataReport& report) {
  return manager_
      ->Update(job.spec.id, "",
               [&](Job& job) {
                 job.state = JobState::kRunning;
                 const bool searches = std::holds_alternative<TextPromptSpec>(job.spec.method);
                 if (job.stop_requested == StopRequest::kNone) job.state_reason = searches ? "searching" : "training";
                 job.resolved_hyperparameters = resolved;
                 job.data_report = report;
                 return absl::OkStatus();
               })
      .status();
}

absl::Status JobManager::Run::ReportProgress(const JobProgress& progress) {
  absl::MutexLock lock(&mutex_);
  unstored_.progress = progress;
  if (manager_->clock_->Now() - last_stored_ < manager_->options_.progress_interval) return absl::OkStatus();
  return Store(JobEvent::Type::kProgress, progress);
}

absl::Status JobManager::Run::ReportEvaluation(const JobProgress& progress) {
  absl::MutexLock lock(&mutex_);
  return Store(JobEvent::Type::kEvaluation, progress);
}

absl::Status JobManager::Run::Store(JobEvent::Type type, const JobProgress& progress) {
  JobEvent event;
  event.type = type;
  event.progress = progress;
  absl::Status status = manager_->store_->AppendEvent(job.spec.id, std::move(event), unstored_.use).status();
  if (!status.ok()) return status;
  unstored_ = {};
  last_stored_ = manager_->clock_->Now();
  manager_->EventAppended(job.spec.id);
  return absl::OkStatus();
}

void JobManager::Run::AddTrainingSeconds(double seconds) {
  absl::MutexLock lock(&mutex_);
  unstored_.use.training_seconds += seconds;
}

void JobManager::Run::AddEnergy(double joules) {
  absl::MutexLock lock(&mutex_);
  unstored_.use.energy_joules = unstored_.use.energy_joules.value_or(0) + joules;
}

absl::Status JobManager::Run::ReportCheckpoint(const Checkpoint& checkpoint) {
  {
    // Whatever the interval: the job must never be known to be behind its own checkpoint.
    absl::MutexLock lock(&mutex_);
    if (unstored_.progress) {
      absl::Status status = Store(JobEvent::Type::kProgress, JobProgress(*unstored_.progress));
      if (!status.ok()) return status;
    }
  }
  absl::Status status = manager_->store_->AddCheckpoint(job.spec.id, checkpoint);
  if (status.ok()) manager_->EventAppended(job.spec.id);
  return status;
}

absl::Status JobManager::Run::RemoveCheckpoint(int64_t step) {
  return manager_->store_->RemoveCheckpoint(job.spec.id, step);
}

absl::StatusOr<std::vector<Checkpoint>> JobManager::Run::checkpoints() const {
  return manager_->store_->ListCheckpoints(job.spec.id);
}

absl::Status JobManager::Run::Log(absl::string_view message) {
  JobEvent event;
  event.type = JobEvent::Type::kLog;
  event.message = std::string(message);
  absl::Status status = manager_->store_->AppendEvent(job.spec.id, std::move(event)).status();
  if (status.ok()) manager_->EventAppended(job.spec.id);
  return status;
}

void JobManager::Run::Flush() {
  absl::MutexLock lock(&mutex_);
  // A failure is no loss: the run's end stores it too, and insists.
  if (unstored_.progress) Store(JobEvent::Type::kProgress, JobProgress(*unstored_.progress)).IgnoreError();
}

JobManager::Run::Unstored JobManager::Run::unstored() {
  absl::MutexLock lock(&mutex_);
  return unstored_;
}

}  // namespace attune
