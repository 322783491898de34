#ifndef ATTUNE_SERVER_JOBS_RUNNER_INTERFACE_H_
#define ATTUNE_SERVER_JOBS_RUNNER_INTERFACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/jobs/job.h"

namespace attune {

// What a running job may say and ask. Made by the job manager; thread-safe. An
// error of a call means that nothing was stored (a full disk, say): the runner
// gives up and returns that error.
class JobControl {
 public:
  virtual ~JobControl() = default;

  // To be looked at before each optimizer step and each longer piece of other
  // work. Once not kNone it stays so, though kPause and kShutdown may yet turn
  // into something more pressing (kCancel).
  virtual StopRequest stop_request() const = 0;

  // PREPARING -> RUNNING, with what preparation found. Must come once, before
  // any of the reports below.
  virtual absl::Status SetRunning(const Hyperparameters& resolved, const DataReport& report) = 0;

  // After an optimizer step. Cheap: stored at most once a second (and at the
  // job's end), so call it for every step.
  virtual absl::Status ReportProgress(const JobProgress& progress) = 0;
  // After an evaluation; `progress` holds its figures. Stored at once.
  virtual absl::Status ReportEvaluation(const JobProgress& progress) = 0;
  // Adds to the job's training_seconds: time in optimizer steps and evaluation.
  // Stored with the next report that is stored.
  virtual void AddTrainingSeconds(double seconds) = 0;
  // Adds to its energy_joules, likewise: what the device used in that time. Never called where it does not tell.
  virtual void AddEnergy(double joules) = 0;

  // Call when the checkpoint's files are durable; a resumed job may rely on it
  // once this returned OK. `create_time` is set by the callee. The runner owns
  // the files: to drop one it calls RemoveCheckpoint, then deletes the files.
  virtual absl::Status ReportCheckpoint(const Checkpoint& checkpoint) = 0;
  virtual absl::Status RemoveCheckpoint(int64_t step) = 0;
  // Recorded checkpoints of this job, of earlier runs too, newest first.
  virtual absl::StatusOr<std::vector<Checkpoint>> checkpoints() const = 0;

  // A line for the job's event stream.
  virtual absl::Status Log(absl::string_view message) = 0;
};

// How a run ended well.
struct JobOutcome {
  enum class Kind {
    kSucceeded,  // `tuned_model` is published
    kStopped,    // followed the stop request; for kPause and kShutdown after a checkpoint
  };
  Kind kind = Kind::kStopped;
  std::string tuned_model;  // id
};

// What a job would need.
struct JobEstimate {
  int64_t total_steps = 0;
  int64_t trainable_parameters = 0;
  int64_t peak_memory_bytes = 0;  // above what the base model takes that others use, too
  double duration_seconds = 0;
  DataReport data_report;
  Hyperparameters resolved_hyperparameters;
};

// Does the work of a tuning job. Implementations are thread-safe: Run is called
// from one thread a running job, Estimate from any.
class JobRunner {
 public:
  virtual ~JobRunner() = default;

  // Runs a job from its newest usable checkpoint, or from the start, to its end
  // or until control.stop_request(). `job` is in state PREPARING. An error
  // fails the job with the status's reason (common/error.h) and message.
  // A run may repeat one that died at any moment, even just after publishing
  // the tuned model, which must then still succeed.
  // The caller holds job.memory_bytes of the device's budget for the run.
  virtual absl::StatusOr<JobOutcome> Run(const Job& job, JobControl& control) = 0;

  // What the job would need, without running it; checks what only the model and
  // the data can tell, e.g. NOT_FOUND for the dataset, INVALID_ARGUMENT for
  // more last_layers than the model has.
  virtual absl::StatusOr<JobEstimate> Estimate(const JobSpec& spec) = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_RUNNER_INTERFACE_H_
