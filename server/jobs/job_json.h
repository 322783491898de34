#ifndef ATTUNE_SERVER_JOBS_JOB_JSON_H_
#define ATTUNE_SERVER_JOBS_JOB_JSON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/jobs/job.h"

// Jobs as JSON text, for the database. Unset fields are left out, and a missing
// field reads as unset, so that a database outlives added fields. NaN and
// infinities survive. Reading gives DATA_LOSS (CORRUPT_JOB) if the text is not
// what these functions write.
namespace attune {

// Stable: equal specs give equal text.
std::string JobSpecToJson(const JobSpec& spec);
absl::StatusOr<JobSpec> JobSpecFromJson(absl::string_view text);

std::string JobProgressToJson(const JobProgress& progress);
absl::StatusOr<JobProgress> JobProgressFromJson(absl::string_view text);

std::string CheckpointToJson(const Checkpoint& checkpoint);
absl::StatusOr<Checkpoint> CheckpointFromJson(absl::string_view text);

std::string HyperparametersToJson(const Hyperparameters& hyperparameters);
absl::StatusOr<Hyperparameters> HyperparametersFromJson(absl::string_view text);

// The part of a job that is neither spec, progress nor a column of its own:
// reason, error, tuned model, start, end and queue time, resolved hyperparameters,
// data report, memory, stop request.
std::string JobStatusToJson(const Job& job);
// Sets that part of `job`.
absl::Status JobStatusFromJson(absl::string_view text, Job* job);

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_JOB_JSON_H_
