#include "server/jobs/manager.h"

#include <algorithm>
#include <exception>
#include <new>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "server/jobs/run.h"
#include "server/jobs/validate.h"

namespace attune {
namespace {

constexpr int kEventsPerBatch = 1000;

absl::Status ShuttingDown() {
  return MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "The server is shutting down; try again soon.");
}

absl::Status Refused(absl::string_view reason, const Job& job, absl::string_view what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, reason,
                   absl::StrCat("The tuning job '", job.spec.id, "' is ", JobStateName(job.state), what));
}

bool HasRun(JobState state) { return state == JobState::kPreparing || state == JobState::kRunning; }

// Libraries below the runner may throw; one job must not take the server down.
absl::StatusOr<JobOutcome> RunGuarded(JobRunner& runner, const Job& job, JobControl& control) {
  try {
    return runner.Run(job, control);
  } catch (const std::bad_alloc&) {
    return MakeError(absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY", "The machine's memory ran out.");
  } catch (const std::exception& error) {
    return MakeError(absl::StatusCode::kInternal, "INTERNAL", error.what());
  }
}

void Fail(const absl::Status& status, Job& job) {
  std::string reason = GetErrorDetails(status).reason;
  if (reason.empty()) reason = absl::StatusCodeToString(status.code());
  job.state = JobState::kFailed;
  job.error = JobError{reason, std::string(status.message())};
  job.state_reason = absl::StrCat(reason, ": ", status.message());
  std::replace(job.state_reason.begin(), job.state_reason.end(), '\n', ' ');
}

// Where a run's end takes its job. `seen` is what the runner was asked to do.
void ApplyOutcome(const absl::StatusOr<JobOutcome>& outcome, StopRequest seen, Job& job) {
  const StopRequest request = job.stop_requested != StopRequest::kNone ? job.stop_requested : seen;
  const bool succeeded = outcome.ok() && outcome->kind == JobOutcome::Kind::kSucceeded;
  if (succeeded && job.state == JobState::kRunning) {
    job.state = JobState::kSucceeded;
    job.state_reason = "finished";
    job.tuned_model = outcome->tuned_model;
  } else if (!succeeded && request == StopRequest::kCancel) {
    // Whatever went wrong while it stopped matters to nobody any more.
    job.state = JobState::kCancelled;
    job.state_reason = "cancelled";
  } else if (!outcome.ok()) {
    Fail(outcome.status(), job);
  } else if (!succeeded && request == StopRequest::kPause) {
    job.state = JobState::kPaused;
    job.state_reason = "paused";
  } else if (!succeeded && request == StopRequest::kShutdown) {
    job.state = JobState::kQueued;
    job.state_reason = "server stopped";
  } else {
    Fail(MakeError(absl::StatusCode::kInternal, "INTERNAL", "The job ended without having run or been asked to stop."),
         job);
  }
}

}  // namespace

JobManager::JobManager(JobStore* store, JobRunner* runner, const Clock* clock, Options options)
    : store_(store), runner_(runner), clock_(clock), options_(std::move(options)) {}

JobManager::~JobManager() { Shutdown(); }

absl::Status JobManager::Start() {
  absl::MutexLock lock(&lifecycle_mutex_);
  ATTUNE_ASSIGN_OR_RETURN(std::vector<JobStore::Recovered> recovered, store_->Recover());
  for (const JobStore::Recovered& each : recovered) Announce(each.job, each.from);
  WakeDispatcher();
  dispatcher_ = std::thread([this] { DispatchLoop(); });
  return absl::OkStatus();
}

void JobManager::Shutdown() {
  absl::MutexLock lifecycle(&lifecycle_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& [id, run] : runs_) run->SetShutdown();
    dispatcher_wake_.SignalAll();
    run_ended_.SignalAll();
  }
  if (dispatcher_.joinable()) dispatcher_.join();
  std::vector<std::thread> finished;
  {
    absl::MutexLock lock(&mutex_);
    while (!runs_.empty()) run_ended_.Wait(&mutex_);
    finished.swap(finished_threads_);
  }
  for (std::thread& thread : finished) thread.join();
  absl::MutexLock lock(&mutex_);
  stopped_ = true;
  watchers_wake_.SignalAll();
}

absl::StatusOr<JobEstimate> JobManager::CheckedEstimate(const JobSpec& spec) {
  ATTUNE_RETURN_IF_ERROR(ValidateJobSpec(spec));
  return runner_->Estimate(spec);
}

absl::StatusOr<Job> JobManager::Create(const JobSpec& spec, absl::string_view request_id) {
  if (stopping()) return ShuttingDown();
  // A repeated request must succeed even if the data is gone by now.
  absl::StatusOr<Job> earlier = store_->FindRequest(spec, request_id);
  if (!absl::IsNotFound(earlier.status())) return earlier;
  ATTUNE_ASSIGN_OR_RETURN(JobEstimate estimate, CheckedEstimate(spec));
  if (estimate.peak_memory_bytes > TotalMemory()) {
    return MakeError(absl::StatusCode::kResourceExhausted, "JOB_TOO_LARGE",
                     absl::StrCat("The job needs ", estimate.peak_memory_bytes, " bytes of device memory, the device has ",
                                  TotalMemory(), " for jobs. Lower micro_batch_tokens or max_sequence_tokens, or choose "
                                  "a method that trains fewer weights."));
  }
  Job job;
  job.spec = spec;
  job.memory_bytes = estimate.peak_memory_bytes;
  job.resolved_hyperparameters = std::move(estimate.resolved_hyperparameters);
  job.data_report = estimate.data_report;
  bool created = false;
  ATTUNE_ASSIGN_OR_RETURN(job, store_->Create(job, request_id, &created));
  if (created) Announce(job, JobState::kQueued);
  return job;
}

absl::StatusOr<JobManager::Estimate> JobManager::EstimateJob(const JobSpec& spec) {
  Estimate result;
  ATTUNE_ASSIGN_OR_RETURN(result.estimate, CheckedEstimate(spec));
  result.available_memory_bytes = FreeMemory();
  result.admissible = result.estimate.peak_memory_bytes <= TotalMemory();
  return result;
}

absl::StatusOr<Job> JobManager::Cancel(absl::string_view id, absl::string_view etag) {
  absl::MutexLock command(&command_mutex_);
  ATTUNE_ASSIGN_OR_RETURN(Job job, Update(id, etag, [](Job& job) {
    if (IsFinal(job.state)) return Refused("JOB_ENDED", job, ": it has ended.");
    if (HasRun(job.state)) {
      job.stop_requested = StopRequest::kCancel;
      job.state_reason = "cancelling";
    } else {
      job.state = JobState::kCancelled;
      job.state_reason = "cancelled";
    }
    return absl::OkStatus();
  }));
  ForwardStop(job);
  return job;
}

absl::StatusOr<Job> JobManager::Pause(absl::string_view id, absl::string_view etag) {
  absl::MutexLock command(&command_mutex_);
  ATTUNE_ASSIGN_OR_RETURN(Job job, Update(id, etag, [](Job& job) {
    if (IsFinal(job.state)) return Refused("JOB_ENDED", job, ": it has ended.");
    if (job.stop_requested == StopRequest::kCancel) return Refused("JOB_CANCELLING", job, " and being cancelled.");
    if (HasRun(job.state)) {
      job.stop_requested = StopRequest::kPause;
      job.state_reason = "pausing";
    } else {
      job.state = JobState::kPaused;
      job.state_reason = "paused";
    }
    return absl::OkStatus();
  }));
  ForwardStop(job);
  return job;
}

absl::StatusOr<Job> JobManager::Resume(absl::string_view id, absl::string_view etag) {
  absl::MutexLock command(&command_mutex_);
  return Update(id, etag, [](Job& job) {
    if (job.state != JobState::kPaused) return Refused("JOB_NOT_PAUSED", job, ", not paused.");
    job.state = JobState::kQueued;
    job.state_reason = "resumed";
    return absl::OkStatus();
  });
}

absl::Status JobManager::Delete(absl::string_view id, absl::string_view etag) {
  absl::MutexLock command(&command_mutex_);
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<std::string> users, store_->ActiveUsersOfCheckpoints(id));
  if (!users.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "JOB_IN_USE",
                     absl::StrCat("tuningJobs/", users[0], " starts from a checkpoint of tuningJobs/", id,
                                  "; wait for it or cancel it first."));
  }
  // Files go first: a crash in between leaves an ended job without files, which
  // can be deleted again, and not files without a job.
  ATTUNE_ASSIGN_OR_RETURN(const Job job, Update(id, etag, [](Job& job) {
    if (!IsFinal(job.state)) return Refused("JOB_NOT_ENDED", job, "; cancel it first.");
    return absl::OkStatus();
  }));
  if (options_.delete_files) ATTUNE_RETURN_IF_ERROR(options_.delete_files(job));
  ATTUNE_RETURN_IF_ERROR(store_->Delete(id, job.etag));
  LogInfo("job.deleted", {{"job", absl::StrCat(kTuningJobs, "/", id)}});
  {
    absl::MutexLock lock(&mutex_);
    event_counts_.erase(std::string(id));
  }
  WakeWatchers();
  return absl::OkStatus();
}

void JobManager::ForwardStop(const Job& job) {
  absl::MutexLock lock(&mutex_);
  auto run = runs_.find(job.spec.id);
  if (run != runs_.end() && HasRun(job.state)) run->second->SetStop(job.stop_requested);
}

absl::StatusOr<Job> JobManager::Update(absl::string_view id, absl::string_view etag,
                                       const std::function<absl::Status(Job&)>& change) {
  Job before;
  ATTUNE_ASSIGN_OR_RETURN(Job job, store_->Update(id, etag, change, &before));
  if (job.state != before.state) Announce(job, before.state);
  return job;
}

void JobManager::Announce(const Job& job, JobState from) {
  LogInfo("job.state", {{"job", absl::StrCat(kTuningJobs, "/", job.spec.id)},
                        {"state", std::string(JobStateName(job.state))},
                        {"reason", job.state_reason}});
  EventAppended(job.spec.id);
  WakeDispatcher();
  if (options_.on_transition) options_.on_transition(job, from, job.state);
}

void JobManager::EventAppended(absl::string_view id) {
  absl::MutexLock lock(&mutex_);
  ++event_counts_[std::string(id)];
  watchers_wake_.SignalAll();
}

void JobManager::WakeWatchers() {
  absl::MutexLock lock(&mutex_);
  ++watcher_wakes_;
  watchers_wake_.SignalAll();
}

absl::StatusOr<JobManager::EventBatch> JobManager::WaitForEvents(absl::string_view id, int64_t after_sequence,
                                                                 absl::Time deadline,
                                                                 const std::function<bool()>& cancelled) {
  const std::string key(id);
  mutex_.Lock();
  while (true) {
    // Counted before looking: an event that comes between look and wait is not missed.
    auto entry = event_counts_.find(key);
    const int64_t count = entry == event_counts_.end() ? 0 : entry->second;
    const int64_t wakes = watcher_wakes_;
    const bool stopped = stopped_;
    mutex_.Unlock();

    if (cancelled && cancelled()) return absl::CancelledError("The watcher left.");
    ATTUNE_ASSIGN_OR_RETURN(JobStore::EventPage page, store_->Events(id, after_sequence, kEventsPerBatch));
    const bool ended = page.complete && IsFinal(page.job.state);
    if (!page.events.empty() || ended || absl::Now() >= deadline) return EventBatch{std::move(page.events), ended};
    if (stopped) return ShuttingDown();

    mutex_.Lock();
    while (wakes == watcher_wakes_ && stopped == stopped_) {
      auto now = event_counts_.find(key);
      if ((now == event_counts_.end() ? 0 : now->second) != count) break;
      if (watchers_wake_.WaitWithDeadline(&mutex_, deadline)) break;
    }
  }
}

bool JobManager::stopping() const {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

void JobManager::WakeDispatcher() {
  absl::MutexLock lock(&mutex_);
  dispatch_needed_ = true;
  dispatcher_wake_.SignalAll();
}

void JobManager::CapacityChanged() { WakeDispatcher(); }

void JobManager::DispatchLoop() {
  while (true) {
    std::vector<std::thread> finished;
    {
      absl::MutexLock lock(&mutex_);
      while (!dispatch_needed_ && !stopping_) dispatcher_wake_.Wait(&mutex_);
      if (stopping_) return;
      dispatch_needed_ = false;
      finished.swap(finished_threads_);
    }
    for (std::thread& thread : finished) thread.join();
    if (absl::Status status = StartJobs(); !status.ok()) {
      LogError("job.dispatch", {{"error", status.ToString()}});
      WaitToRetry();
      WakeDispatcher();
    }
  }
}

absl::Status JobManager::StartJobs() {
  std::set<std::string> not_now;
  while (!stopping()) {
    ATTUNE_ASSIGN_OR_RETURN(QueueSnapshot snapshot, Snapshot());
    std::map<std::string, int64_t> memory;
    std::erase_if(snapshot.queued, [&](const QueuedJob& job) { return not_now.count(job.id) > 0; });
    for (const QueuedJob& job : snapshot.queued) memory[job.id] = job.memory_bytes;
    std::optional<std::string> id = PickJob(snapshot);
    if (!id) break;
    ATTUNE_ASSIGN_OR_RETURN(const bool started, StartJob(*id, memory[*id]));
    if (!started) not_now.insert(*id);
  }
  return absl::OkStatus();
}

absl::StatusOr<QueueSnapshot> JobManager::Snapshot() {
  QueueSnapshot snapshot;
  snapshot.now = clock_->Now();
  snapshot.patience = options_.patience;
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Job> queued, store_->List(INT32_MAX, INT64_MAX, {{JobState::kQueued}, ""}));
  ATTUNE_ASSIGN_OR_RETURN(snapshot.tenant_seconds, store_->TenantSeconds(snapshot.now - options_.fair_share_window));
  snapshot.free_memory_bytes = FreeMemory();
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, run] : runs_) snapshot.running.push_back({run->job.spec.tenant, run->job.memory_bytes});
  snapshot.free_slots = options_.max_concurrent_jobs - static_cast<int>(runs_.size());
  for (const Job& job : queued) {
    // One that was paused and resumed at once may still have its old run's thread.
    if (runs_.count(job.spec.id) > 0) continue;
    snapshot.queued.push_back({job.spec.id, job.spec.priority, job.spec.tenant, job.position, job.queue_time,
                               job.memory_bytes});
  }
  return snapshot;
}

absl::StatusOr<bool> JobManager::StartJob(const std::string& id, int64_t memory_bytes) {
  absl::MutexLock command(&command_mutex_);
  // What a shutdown has put back into the queue stays there.
  if (stopping()) return false;
  std::shared_ptr<void> memory;
  if (options_.reserve_memory) {
    absl::StatusOr<std::shared_ptr<void>> reserved = options_.reserve_memory(memory_bytes);
    if (!reserved.ok()) return false;
    memory = *std::move(reserved);
  }
  absl::StatusOr<Job> job = Update(id, "", [](Job& job) {
    if (job.state != JobState::kQueued) return Refused("JOB_NOT_QUEUED", job, ", not queued.");
    job.state = JobState::kPreparing;
    job.state_reason = "loading the base model and the data";
    return absl::OkStatus();
  });
  if (absl::IsFailedPrecondition(job.status()) || absl::IsNotFound(job.status())) return false;
  if (!job.ok()) return job.status();
  auto run = std::make_shared<Run>(this, *std::move(job), std::move(memory));
  absl::MutexLock lock(&mutex_);
  if (stopping_) run->SetShutdown();
  runs_[id] = run;
  run->thread = std::thread([this, run] { RunJob(run); });
  return true;
}

void JobManager::RunJob(const std::shared_ptr<Run>& run) {
  absl::StatusOr<JobOutcome> outcome = RunGuarded(*runner_, run->job, *run);
  run->memory.reset();
  FinishJob(*run, outcome);
  absl::MutexLock lock(&mutex_);
  runs_.erase(run->job.spec.id);
  finished_threads_.push_back(std::move(run->thread));
  dispatch_needed_ = true;
  dispatcher_wake_.SignalAll();
  run_ended_.SignalAll();
}

void JobManager::FinishJob(Run& run, const absl::StatusOr<JobOutcome>& outcome) {
  const StopRequest seen = run.stop_request();
  run.Flush();
  const Run::Unstored unstored = run.unstored();
  while (true) {
    absl::Status status = Update(run.job.spec.id, "", [&](Job& job) {
                            if (unstored.progress) job.progress = *unstored.progress;
                            job.Add(unstored.use);
                            ApplyOutcome(outcome, seen, job);
                            return absl::OkStatus();
                          }).status();
    if (status.ok()) return;
    LogError("job.finish", {{"job", absl::StrCat(kTuningJobs, "/", run.job.spec.id)}, {"error", status.ToString()}});
    // Only a lasting failure or the server's end leaves it to Recover.
    if (absl::IsNotFound(status) || absl::IsFailedPrecondition(status) || !WaitToRetry()) return;
  }
}

bool JobManager::WaitToRetry() {
  absl::MutexLock lock(&mutex_);
  if (!stopping_) run_ended_.WaitWithTimeout(&mutex_, absl::Seconds(1));
  return !stopping_;
}

}  // namespace attune
