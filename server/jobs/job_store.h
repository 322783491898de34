#ifndef ATTUNE_SERVER_JOBS_JOB_STORE_H_
#define ATTUNE_SERVER_JOBS_JOB_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/database.h"
#include "server/jobs/job.h"

namespace attune {

// Jobs, their events and checkpoints in the database's tables `jobs`,
// `job_events` and `checkpoints`. What a call returned OK for survives a crash.
// A job's events are numbered 1, 2, 3, ... without gaps; a change of state and
// its event are one transaction. NOT_FOUND (TUNING_JOB_NOT_FOUND) for unknown
// ids. Thread-safe.
class JobStore {
 public:
  // Makes the tables if needed. `database` and `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(Database* database, const Clock* clock);

  // Queues a job made from `job`'s spec, memory_bytes, resolved_hyperparameters
  // and data_report. An empty spec.id, tenant or tuned_model_id gets its
  // default. With a `request_id` (at most 128 bytes; empty: none) that an
  // earlier call gave with the same spec: that call's job, unchanged.
  // ALREADY_EXISTS: REQUEST_ID_REUSED (with another spec), JOB_EXISTS,
  // TUNED_MODEL_ID_TAKEN (another unfinished job will publish that model).
  // `created` (may be null) says whether the job is new. The spec must be valid
  // (ValidateJobSpec).
  absl::StatusOr<Job> Create(const Job& job, absl::string_view request_id, bool* created = nullptr);

  // The job that an earlier Create made for `request_id`, as Create would
  // return it; NOT_FOUND (REQUEST_UNKNOWN) if there was none.
  absl::StatusOr<Job> FindRequest(const JobSpec& spec, absl::string_view request_id) const;

  absl::StatusOr<Job> Get(absl::string_view id) const;

  struct Filter {
    std::vector<JobState> states;  // empty: all
    std::string tenant;            // empty: all
  };
  // Newest first, below `before_position` (INT64_MAX: from the newest), at most `limit`.
  absl::StatusOr<std::vector<Job>> List(int limit, int64_t before_position, const Filter& filter) const;

  // Applies `change` to the current job in a transaction and returns the result.
  // `change` may set state, state_reason, error, progress, tuned_model,
  // resolved_hyperparameters, data_report, training_seconds, energy_joules,
  // memory_bytes and stop_requested; the store sets etag, times and the STATE_CHANGED event (its
  // message is state_reason), and clears stop_requested when the job stops
  // running. Nothing is written if `change` fails or changes nothing.
  // ABORTED (ETAG_MISMATCH) if `etag` is not empty and not the job's;
  // FAILED_PRECONDITION (ILLEGAL_TRANSITION) if the transition is not legal.
  // `change` must not call the store. `before` (may be null) gets the job as it was.
  absl::StatusOr<Job> Update(absl::string_view id, absl::string_view etag,
                             const std::function<absl::Status(Job&)>& change, Job* before = nullptr);

  // Removes a job with its events and checkpoint rows. FAILED_PRECONDITION
  // (JOB_NOT_ENDED), ABORTED (ETAG_MISMATCH).
  absl::Status Delete(absl::string_view id, absl::string_view etag);

  // Adds a PROGRESS, EVALUATION or LOG event; its sequence, time and state are
  // set here, and a progress becomes the job's. Also adds what the job has taken.
  // Returns the sequence number.
  absl::StatusOr<int64_t> AppendEvent(absl::string_view id, JobEvent event, const DeviceUse& add = {});

  // Up to `limit` events with a sequence above `after_sequence`, in order, and
  // the job as it was at the same moment.
  struct EventPage {
    Job job;
    std::vector<JobEvent> events;
    bool complete = false;  // no later event existed
  };
  absl::StatusOr<EventPage> Events(absl::string_view id, int64_t after_sequence, int limit) const;

  // Records a checkpoint whose files are durable, and its event; create_time is
  // set here. One with `best` takes that mark from the others. Adding a step
  // again replaces it.
  absl::Status AddCheckpoint(absl::string_view id, Checkpoint checkpoint);
  // Newest first.
  absl::StatusOr<std::vector<Checkpoint>> ListCheckpoints(absl::string_view id) const;
  // OK if there is none.
  absl::Status RemoveCheckpoint(absl::string_view id, int64_t step);

  // Ids of the unfinished jobs that need a dataset, or a model as their base, start or teacher.
  absl::StatusOr<std::vector<std::string>> ActiveUsersOfDataset(absl::string_view dataset) const;
  absl::StatusOr<std::vector<std::string>> ActiveUsersOfModel(absl::string_view model) const;
  // Those that start from a checkpoint of the job.
  absl::StatusOr<std::vector<std::string>> ActiveUsersOfCheckpoints(absl::string_view job) const;
  // Those of the unfinished jobs that will publish a model.
  absl::StatusOr<std::vector<std::string>> ActiveMakersOfModel(absl::string_view model) const;

  // Training seconds by tenant over jobs that are unfinished or ended after `since`.
  absl::StatusOr<std::map<std::string, double>> TenantSeconds(absl::Time since) const;

  // To be called once, before jobs run: what a dead server left PREPARING or
  // RUNNING goes where it was asked to go (CANCELLED, PAUSED) or back to QUEUED.
  struct Recovered {
    JobState from;
    Job job;  // as it is now
  };
  absl::StatusOr<std::vector<Recovered>> Recover();

 private:
  JobStore(Database* database, const Clock* clock) : database_(database), clock_(clock) {}
  absl::Time Now() const;

  Database* const database_;
  const Clock* const clock_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_JOB_STORE_H_
