#ifndef ATTUNE_SERVER_RPC_CONVERT_JOB_H_
#define ATTUNE_SERVER_RPC_CONVERT_JOB_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attune/v1/tuning_job.pb.h"
#include "attune/v1/tuning_service.pb.h"
#include "server/jobs/job.h"
#include "server/jobs/manager.h"

// Tuning jobs: protobuf to the server's types and back.
namespace attune {

// Checks all that the message alone can tell: names, the method, every range, and
// that templates parse. Output-only fields are ignored. `id` may be empty.
absl::StatusOr<JobSpec> ToJobSpec(const v1::TuningJob& job, absl::string_view id);

Hyperparameters ToHyperparameters(const v1::Hyperparameters& hyperparameters);
v1::Hyperparameters ToProto(const Hyperparameters& hyperparameters);
v1::DataOptions ToProto(const DataOptions& options);
v1::TuningJob ToProto(const Job& job);
v1::JobEvent ToProto(const JobEvent& event, absl::string_view job_id);
v1::Checkpoint ToProto(const Checkpoint& checkpoint, absl::string_view job_id);
v1::EstimateTuningJobResponse ToProto(const JobManager::Estimate& estimate);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_JOB_H_
