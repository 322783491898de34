#include "server/jobs/job_store.h"

#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/jobs/job_json.h"

namespace attune {
namespace {

using Transaction = Database::Transaction;

// end_time is 0 until the job ends, energy_joules -1 unless the device told. The columns beside `spec` and `status` are
// those that queries or frequent updates need.
constexpr char kMakeJobs[] =
    "CREATE TABLE IF NOT EXISTS jobs (position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " request_id TEXT NOT NULL, request TEXT NOT NULL, state INTEGER NOT NULL, tenant TEXT NOT NULL,"
    " base_model TEXT NOT NULL, dataset TEXT NOT NULL, validation_dataset TEXT NOT NULL, tuned_model_id TEXT NOT NULL,"
    " etag TEXT NOT NULL, last_sequence INTEGER NOT NULL, create_time INTEGER NOT NULL, end_time INTEGER NOT NULL,"
    " training_seconds REAL NOT NULL, progress TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL,"
    " energy_joules REAL NOT NULL DEFAULT -1)";
// Columns that tables of earlier versions lack.
constexpr char kHasEnergy[] = "SELECT 1 FROM pragma_table_info('jobs') WHERE name = 'energy_joules'";
constexpr char kAddEnergy[] = "ALTER TABLE jobs ADD COLUMN energy_joules REAL NOT NULL DEFAULT -1";
constexpr char kMakeRequestIndex[] =
    "CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_request ON jobs (request_id) WHERE request_id != ''";
constexpr char kMakeStateIndex[] = "CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state)";
constexpr char kMakeEvents[] =
    "CREATE TABLE IF NOT EXISTS job_events (job INTEGER NOT NULL, sequence INTEGER NOT NULL, time INTEGER NOT NULL,"
    " type INTEGER NOT NULL, state INTEGER NOT NULL, message TEXT NOT NULL, detail TEXT NOT NULL,"
    " PRIMARY KEY (job, sequence)) WITHOUT ROWID";
constexpr char kMakeCheckpoints[] =
    "CREATE TABLE IF NOT EXISTS checkpoints (job INTEGER NOT NULL, step INTEGER NOT NULL, record TEXT NOT NULL,"
    " PRIMARY KEY (job, step)) WITHOUT ROWID";

constexpr char kUnfinished[] = "state IN (1, 2, 3, 4)";
constexpr char kSelectJob[] =
    "SELECT position, state, etag, create_time, training_seconds, progress, spec, status, energy_joules FROM jobs ";

constexpr int kMaxRequestIdBytes = 128;

std::string NewEtag() {
  absl::BitGen random;
  return absl::StrCat(absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16));
}

absl::Status JobNotFound(absl::string_view id) { return NotFound(absl::StrCat(kTuningJobs, "/", id)); }

absl::StatusOr<Job> ReadJob(const DatabaseRow& row) {
  Job job;
  ATTUNE_ASSIGN_OR_RETURN(job.progress, JobProgressFromJson(row.Text(5)));
  ATTUNE_ASSIGN_OR_RETURN(job.spec, JobSpecFromJson(row.Text(6)));
  ATTUNE_RETURN_IF_ERROR(JobStatusFromJson(row.Text(7), &job));
  job.position = row.Int(0);
  job.state = static_cast<JobState>(row.Int(1));
  job.etag = row.Text(2);
  job.create_time = absl::FromUnixMicros(row.Int(3));
  job.training_seconds = row.Real(4);
  if (row.Real(8) >= 0) job.energy_joules = row.Real(8);
  return job;
}

// `Runner` is a Database or a Transaction.
template <typename Runner>
absl::StatusOr<std::vector<Job>> SelectJobs(Runner& runner, absl::string_view where,
                                            const std::vector<DatabaseValue>& parameters) {
  std::vector<Job> jobs;
  absl::Status bad;
  ATTUNE_RETURN_IF_ERROR(runner.Run(absl::StrCat(kSelectJob, where), parameters, [&](const DatabaseRow& row) {
    absl::StatusOr<Job> job = ReadJob(row);
    if (job.ok()) {
      jobs.push_back(*std::move(job));
    } else {
      bad = std::move(job).status();
    }
  }));
  if (!bad.ok()) return bad;
  return jobs;
}

template <typename Runner>
absl::StatusOr<Job> SelectJob(Runner& runner, absl::string_view id) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Job> jobs, SelectJobs(runner, "WHERE id = ?1", {id}));
  if (jobs.empty()) return JobNotFound(id);
  return std::move(jobs.front());
}

absl::Status CheckEtag(const Job& job, absl::string_view etag) {
  if (etag.empty() || etag == absl::string_view(job.etag)) return absl::OkStatus();
  return MakeError(absl::StatusCode::kAborted, "ETAG_MISMATCH",
                   absl::StrCat("The job '", job.spec.id, "' has changed since its etag was read; read it again."));
}

template <typename Runner>
absl::StatusOr<std::optional<Job>> SelectRequest(Runner& runner, absl::string_view request_id,
                                                 absl::string_view request) {
  std::string first_request;
  std::string id;
  ATTUNE_RETURN_IF_ERROR(runner.Run("SELECT id, request FROM jobs WHERE request_id = ?1 AND request_id != ''", {request_id},
                                    [&](const DatabaseRow& row) {
                                      id = row.Text(0);
                                      first_request = row.Text(1);
                                    }));
  if (id.empty()) return std::optional<Job>();
  if (absl::string_view(first_request) != request) {
    return MakeError(absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
                     absl::StrCat("The request id '", request_id, "' was used for another job, '", id, "'."));
  }
  ATTUNE_ASSIGN_OR_RETURN(Job job, SelectJob(runner, id));
  return std::optional<Job>(std::move(job));
}

template <typename Runner>
absl::StatusOr<std::vector<std::string>> SelectIds(Runner& runner, absl::string_view where,
                                                   const std::vector<DatabaseValue>& parameters) {
  std::vector<std::string> ids;
  ATTUNE_RETURN_IF_ERROR(runner.Run(absl::StrCat("SELECT id FROM jobs WHERE ", where, " ORDER BY position"), parameters,
                                    [&](const DatabaseRow& row) { ids.push_back(row.Text(0)); }));
  return ids;
}

// Unique among jobs, and says what it is where that is short enough.
std::string DefaultTunedModelId(const JobSpec& spec) {
  std::string id = MakeId(absl::StrCat(spec.base_model, "-", MethodName(spec.method)));
  absl::StrAppend(&id, "-", spec.id);
  return id.size() <= 63 ? id : spec.id;
}

absl::Status CheckFree(Transaction& transaction, const JobSpec& spec) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> same, SelectIds(transaction, "id = ?1", {spec.id}));
  if (!same.empty()) {
    return MakeError(absl::StatusCode::kAlreadyExists, "JOB_EXISTS",
                     absl::StrCat("There is already a tuning job '", spec.id, "'."));
  }
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> rivals,
                          SelectIds(transaction, absl::StrCat("tuned_model_id = ?1 AND ", kUnfinished),
                                    {spec.tuned_model_id}));
  if (!rivals.empty()) {
    return MakeError(absl::StatusCode::kAlreadyExists, "TUNED_MODEL_ID_TAKEN",
                     absl::StrCat("The unfinished tuning job '", rivals.front(), "' will publish the model '",
                                  spec.tuned_model_id, "'."));
  }
  return absl::OkStatus();
}

// Adds an event as the job's next one and returns its number.
absl::StatusOr<int64_t> InsertEvent(Transaction& transaction, const Job& job, const JobEvent& event) {
  int64_t sequence = 0;
  ATTUNE_RETURN_IF_ERROR(transaction.Run("UPDATE jobs SET last_sequence = last_sequence + 1 WHERE position = ?1",
                                         {job.position}));
  ATTUNE_RETURN_IF_ERROR(transaction.Run("SELECT last_sequence FROM jobs WHERE position = ?1", {job.position},
                                         [&](const DatabaseRow& row) { sequence = row.Int(0); }));
  std::string detail;
  if (event.progress) detail = JobProgressToJson(*event.progress);
  if (event.checkpoint) detail = CheckpointToJson(*event.checkpoint);
  ATTUNE_RETURN_IF_ERROR(transaction.Run(
      "INSERT INTO job_events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
      {job.position, sequence, absl::ToUnixMicros(event.time), static_cast<int>(event.type),
       static_cast<int>(job.state), event.message, detail}));
  return sequence;
}

absl::Status InsertStateEvent(Transaction& transaction, const Job& job, absl::Time now) {
  JobEvent event;
  event.time = now;
  event.type = JobEvent::Type::kStateChanged;
  event.message = job.state_reason;
  return InsertEvent(transaction, job, event).status();
}

absl::StatusOr<JobEvent> ReadEvent(const DatabaseRow& row) {
  JobEvent event;
  event.sequence = row.Int(0);
  event.time = absl::FromUnixMicros(row.Int(1));
  event.type = static_cast<JobEvent::Type>(row.Int(2));
  event.state = static_cast<JobState>(row.Int(3));
  event.message = row.Text(4);
  const std::string detail = row.Text(5);
  if (event.type == JobEvent::Type::kProgress || event.type == JobEvent::Type::kEvaluation) {
    ATTUNE_ASSIGN_OR_RETURN(event.progress, JobProgressFromJson(detail));
  } else if (event.type == JobEvent::Type::kCheckpoint) {
    ATTUNE_ASSIGN_OR_RETURN(event.checkpoint, CheckpointFromJson(detail));
  }
  return event;
}

template <typename Runner>
absl::StatusOr<std::vector<Checkpoint>> SelectCheckpoints(Runner& runner, int64_t position) {
  std::vector<Checkpoint> checkpoints;
  absl::Status bad;
  ATTUNE_RETURN_IF_ERROR(runner.Run("SELECT record FROM checkpoints WHERE job = ?1 ORDER BY step DESC", {position},
                                    [&](const DatabaseRow& row) {
                                      absl::StatusOr<Checkpoint> checkpoint = CheckpointFromJson(row.Text(0));
                                      if (checkpoint.ok()) {
                                        checkpoints.push_back(*checkpoint);
                                      } else {
                                        bad = checkpoint.status();
                                      }
                                    }));
  if (!bad.ok()) return bad;
  return checkpoints;
}

absl::Status WriteCheckpoint(Transaction& transaction, int64_t position, const Checkpoint& checkpoint) {
  return transaction.Run("INSERT OR REPLACE INTO checkpoints VALUES (?1, ?2, ?3)",
                         {position, checkpoint.step, CheckpointToJson(checkpoint)});
}

// Checks the way from `before` to `after` and sets what follows from it.
absl::Status FollowTransition(const Job& before, absl::Time now, Job* after) {
  const JobState from = before.state;
  const JobState to = after->state;
  if (from != to) {
    if (!IsLegalTransition(from, to)) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "ILLEGAL_TRANSITION",
                       absl::StrCat("A tuning job cannot go from ", JobStateName(from), " to ", JobStateName(to), "."));
    }
    if (to == JobState::kQueued) after->queue_time = now;
    if (to == JobState::kPreparing && !after->start_time) after->start_time = now;
    if (IsFinal(to)) after->end_time = now;
    if (to != JobState::kPreparing && to != JobState::kRunning) after->stop_requested = StopRequest::kNone;
  }
  after->etag = NewEtag();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(Database* database, const Clock* clock) {
  for (const char* statement : {kMakeJobs, kMakeRequestIndex, kMakeStateIndex, kMakeEvents, kMakeCheckpoints}) {
    ATTUNE_RETURN_IF_ERROR(database->Run(statement));
  }
  bool has_energy = false;
  ATTUNE_RETURN_IF_ERROR(database->Run(kHasEnergy, {}, [&](const DatabaseRow&) { has_energy = true; }));
  if (!has_energy) ATTUNE_RETURN_IF_ERROR(database->Run(kAddEnergy));
  return std::unique_ptr<JobStore>(new JobStore(database, clock));
}

// The database keeps microseconds; what is returned must equal what is read later.
absl::Time JobStore::Now() const { return absl::FromUnixMicros(absl::ToUnixMicros(clock_->Now())); }

absl::StatusOr<Job> JobStore::Create(const Job& wanted, absl::string_view request_id, bool* created) {
  if (request_id.size() > kMaxRequestIdBytes) {
    return InvalidField("request_id", absl::StrCat("must be at most ", kMaxRequestIdBytes, " bytes"));
  }
  const std::string request = JobSpecToJson(wanted.spec);
  Job job;
  job.spec = wanted.spec;
  if (job.spec.id.empty()) job.spec.id = RandomId("job");
  if (job.spec.tenant.empty()) job.spec.tenant = "default";
  if (job.spec.tuned_model_id.empty()) job.spec.tuned_model_id = DefaultTunedModelId(job.spec);
  job.memory_bytes = wanted.memory_bytes;
  job.resolved_hyperparameters = wanted.resolved_hyperparameters;
  job.data_report = wanted.data_report;
  job.state_reason = "waiting for its turn";
  job.create_time = job.queue_time = Now();
  job.etag = NewEtag();
  bool is_new = false;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::optional<Job> earlier, SelectRequest(transaction, request_id, request));
    if (earlier) {
      job = *std::move(earlier);
      return absl::OkStatus();
    }
    ATTUNE_RETURN_IF_ERROR(CheckFree(transaction, job.spec));
    ATTUNE_RETURN_IF_ERROR(transaction.Run(
        "INSERT INTO jobs (id, request_id, request, state, tenant, base_model, dataset, validation_dataset,"
        " tuned_model_id, etag, last_sequence, create_time, end_time, training_seconds, progress, spec, status)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0, ?11, 0, 0, ?12, ?13, ?14)",
        {job.spec.id, request_id, request, static_cast<int>(job.state), job.spec.tenant, job.spec.base_model,
         job.spec.dataset, job.spec.validation_dataset, job.spec.tuned_model_id, job.etag,
         absl::ToUnixMicros(job.create_time), JobProgressToJson(job.progress), JobSpecToJson(job.spec),
         JobStatusToJson(job)}));
    ATTUNE_RETURN_IF_ERROR(transaction.Run("SELECT last_insert_rowid()", {},
                                           [&](const DatabaseRow& row) { job.position = row.Int(0); }));
    is_new = true;
    return InsertStateEvent(transaction, job, job.create_time);
  }));
  if (created != nullptr) *created = is_new;
  return job;
}

absl::StatusOr<Job> JobStore::FindRequest(const JobSpec& spec, absl::string_view request_id) const {
  ATTUNE_ASSIGN_OR_RETURN(std::optional<Job> job, SelectRequest(*database_, request_id, JobSpecToJson(spec)));
  if (job) return *std::move(job);
  return MakeError(absl::StatusCode::kNotFound, "REQUEST_UNKNOWN", "No job was made for this request id.");
}

absl::StatusOr<Job> JobStore::Get(absl::string_view id) const { return SelectJob(*database_, id); }

absl::StatusOr<std::vector<Job>> JobStore::List(int limit, int64_t before_position, const Filter& filter) const {
  std::string where = "WHERE position < ?1 AND (?2 = '' OR tenant = ?2)";
  if (!filter.states.empty()) {
    absl::StrAppend(&where, " AND state IN (", absl::StrJoin(filter.states, ", ", [](std::string* out, JobState state) {
                      absl::StrAppend(out, static_cast<int>(state));
                    }), ")");
  }
  absl::StrAppend(&where, " ORDER BY position DESC LIMIT ?3");
  return SelectJobs(*database_, where, {before_position, filter.tenant, limit});
}

absl::StatusOr<Job> JobStore::Update(absl::string_view id, absl::string_view etag,
                                     const std::function<absl::Status(Job&)>& change, Job* before) {
  Job job;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(const Job old, SelectJob(transaction, id));
    if (before != nullptr) *before = old;
    ATTUNE_RETURN_IF_ERROR(CheckEtag(old, etag));
    job = old;
    ATTUNE_RETURN_IF_ERROR(change(job));
    if (job == old) return absl::OkStatus();
    const absl::Time now = Now();
    ATTUNE_RETURN_IF_ERROR(FollowTransition(old, now, &job));
    ATTUNE_RETURN_IF_ERROR(transaction.Run(
        "UPDATE jobs SET state = ?2, etag = ?3, end_time = ?4, training_seconds = ?5, progress = ?6, status = ?7,"
        " energy_joules = ?8 WHERE position = ?1",
        {old.position, static_cast<int>(job.state), job.etag, job.end_time ? absl::ToUnixMicros(*job.end_time) : 0,
         job.training_seconds, JobProgressToJson(job.progress), JobStatusToJson(job), job.energy_joules.value_or(-1)}));
    return job.state == old.state ? absl::OkStatus() : InsertStateEvent(transaction, job, now);
  }));
  return job;
}

absl::Status JobStore::Delete(absl::string_view id, absl::string_view etag) {
  return database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(const Job job, SelectJob(transaction, id));
    ATTUNE_RETURN_IF_ERROR(CheckEtag(job, etag));
    if (!IsFinal(job.state)) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "JOB_NOT_ENDED",
                       absl::StrCat("The tuning job '", id, "' is ", JobStateName(job.state), "; cancel it first."));
    }
    for (const char* statement : {"DELETE FROM job_events WHERE job = ?1", "DELETE FROM checkpoints WHERE job = ?1",
                                  "DELETE FROM jobs WHERE position = ?1"}) {
      ATTUNE_RETURN_IF_ERROR(transaction.Run(statement, {job.position}));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<int64_t> JobStore::AppendEvent(absl::string_view id, JobEvent event, const DeviceUse& add) {
  int64_t sequence = 0;
  event.time = Now();
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(Job job, SelectJob(transaction, id));
    job.Add(add);
    const JobProgress& progress = event.progress ? *event.progress : job.progress;
    ATTUNE_RETURN_IF_ERROR(transaction.Run(
        "UPDATE jobs SET progress = ?2, training_seconds = ?3, energy_joules = ?4 WHERE position = ?1",
        {job.position, JobProgressToJson(progress), job.training_seconds, job.energy_joules.value_or(-1)}));
    ATTUNE_ASSIGN_OR_RETURN(sequence, InsertEvent(transaction, job, event));
    return absl::OkStatus();
  }));
  return sequence;
}

absl::StatusOr<JobStore::EventPage> JobStore::Events(absl::string_view id, int64_t after_sequence, int limit) const {
  EventPage page;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(page.job, SelectJob(transaction, id));
    absl::Status bad;
    ATTUNE_RETURN_IF_ERROR(transaction.Run(
        "SELECT sequence, time, type, state, message, detail FROM job_events WHERE job = ?1 AND sequence > ?2"
        " ORDER BY sequence LIMIT ?3",
        {page.job.position, after_sequence, limit}, [&](const DatabaseRow& row) {
          absl::StatusOr<JobEvent> event = ReadEvent(row);
          if (event.ok()) {
            page.events.push_back(*std::move(event));
          } else {
            bad = std::move(event).status();
          }
        }));
    ATTUNE_RETURN_IF_ERROR(bad);
    const int64_t seen = page.events.empty() ? after_sequence : page.events.back().sequence;
    return transaction.Run("SELECT last_sequence <= ?2 FROM jobs WHERE position = ?1", {page.job.position, seen},
                           [&](const DatabaseRow& row) { page.complete = row.Int(0) != 0; });
  }));
  return page;
}

absl::Status JobStore::AddCheckpoint(absl::string_view id, Checkpoint checkpoint) {
  checkpoint.create_time = Now();
  return database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(const Job job, SelectJob(transaction, id));
    if (checkpoint.best) {
      ATTUNE_ASSIGN_OR_RETURN(std::vector<Checkpoint> others, SelectCheckpoints(transaction, job.position));
      for (Checkpoint& other : others) {
        if (!std::exchange(other.best, false)) continue;
        ATTUNE_RETURN_IF_ERROR(WriteCheckpoint(transaction, job.position, other));
      }
    }
    ATTUNE_RETURN_IF_ERROR(WriteCheckpoint(transaction, job.position, checkpoint));
    JobEvent event;
    event.time = checkpoint.create_time;
    event.type = JobEvent::Type::kCheckpoint;
    event.checkpoint = checkpoint;
    return InsertEvent(transaction, job, event).status();
  });
}

absl::StatusOr<std::vector<Checkpoint>> JobStore::ListCheckpoints(absl::string_view id) const {
  ATTUNE_ASSIGN_OR_RETURN(const Job job, Get(id));
  return SelectCheckpoints(*database_, job.position);
}

absl::Status JobStore::RemoveCheckpoint(absl::string_view id, int64_t step) {
  ATTUNE_ASSIGN_OR_RETURN(const Job job, Get(id));
  return database_->Run("DELETE FROM checkpoints WHERE job = ?1 AND step = ?2", {job.position, step});
}

absl::StatusOr<std::vector<std::string>> JobStore::ActiveUsersOfDataset(absl::string_view dataset) const {
  return SelectIds(*database_, absl::StrCat("(dataset = ?1 OR validation_dataset = ?1) AND ", kUnfinished), {dataset});
}

absl::StatusOr<std::vector<std::string>> JobStore::ActiveUsersOfModel(absl::string_view model) const {
  return SelectIds(*database_,
                   absl::StrCat("(base_model = ?1 OR json_extract(spec, '$.start_from.model') = ?1 OR "
                                "json_extract(spec, '$.distillation.teacher') = ?1) AND ",
                                kUnfinished),
                   {model});
}

absl::StatusOr<std::vector<std::string>> JobStore::ActiveUsersOfCheckpoints(absl::string_view job) const {
  return SelectIds(*database_, absl::StrCat("json_extract(spec, '$.start_from.job') = ?1 AND ", kUnfinished), {job});
}

absl::StatusOr<std::vector<std::string>> JobStore::ActiveMakersOfModel(absl::string_view model) const {
  return SelectIds(*database_, absl::StrCat("tuned_model_id = ?1 AND ", kUnfinished), {model});
}

absl::StatusOr<std::map<std::string, double>> JobStore::TenantSeconds(absl::Time since) const {
  std::map<std::string, double> seconds;
  ATTUNE_RETURN_IF_ERROR(database_->Run(
      "SELECT tenant, SUM(training_seconds) FROM jobs WHERE end_time = 0 OR end_time >= ?1 GROUP BY tenant",
      {absl::ToUnixMicros(since)}, [&](const DatabaseRow& row) { seconds[row.Text(0)] = row.Real(1); }));
  return seconds;
}

absl::StatusOr<std::vector<JobStore::Recovered>> JobStore::Recover() {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> ids, SelectIds(*database_, "state IN (2, 3)", {}));
  std::vector<Recovered> recovered;
  for (const std::string& id : ids) {
    Job before;
    auto requeue = [](Job& job) {
      const StopRequest request = job.stop_requested;
      job.state = request == StopRequest::kCancel  ? JobState::kCancelled
                  : request == StopRequest::kPause ? JobState::kPaused
                                                   : JobState::kQueued;
      job.state_reason = request == StopRequest::kCancel  ? "cancelled"
                         : request == StopRequest::kPause ? "paused"
                                                          : "server restarted";
      return absl::OkStatus();
    };
    ATTUNE_ASSIGN_OR_RETURN(Job job, Update(id, "", requeue, &before));
    recovered.push_back({before.state, std::move(job)});
  }
  return recovered;
}

}  // namespace attune
