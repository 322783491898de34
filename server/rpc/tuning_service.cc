#include "server/rpc/tuning_service.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_job.h"
#include "server/rpc/paging.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "TuningService";
// A watcher is woken by events and by its caller's leaving; this is only how long one wait may last.
constexpr absl::Duration kWatchWait = absl::Seconds(10);

absl::StatusOr<std::string> JobId(Call& call, const std::string& name, absl::string_view field = "name") {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kTuningJobs, name, field));
  call.Note("job", name);
  return id;
}

absl::Status CheckCreate(const v1::CreateTuningJobRequest& request) {
  if (!request.has_tuning_job()) return InvalidField("tuning_job", "is required");
  if (!request.tuning_job_id().empty()) ATTUNE_RETURN_IF_ERROR(CheckId(request.tuning_job_id(), "tuning_job_id"));
  return CheckLength(request.request_id(), 128, "request_id");
}

}  // namespace

absl::Status TuningService::CheckResources(const JobSpec& spec) const {
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo base, deps_.models->Get(spec.base_model));
  if (base.kind != ModelKind::kBase && base.kind != ModelKind::kFullWeights) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
                     absl::StrCat("'models/", base.id, "' is an adapter over 'models/", base.base_model,
                                  "', which cannot be tuned further; tune that model instead."),
                     {{"base_model", absl::StrCat(kModels, "/", base.base_model)}},
                     {{"tuning_job.base_model", "must not be an adapter"}});
  }
  if (spec.start_from && !spec.start_from->model.empty()) {
    ATTUNE_RETURN_IF_ERROR(deps_.models->Get(spec.start_from->model).status());
  }
  if (spec.distillation) ATTUNE_RETURN_IF_ERROR(deps_.models->Get(spec.distillation->teacher).status());
  ATTUNE_RETURN_IF_ERROR(deps_.datasets->Get(spec.dataset).status());
  if (spec.validation_dataset.empty()) return absl::OkStatus();
  return deps_.datasets->Get(spec.validation_dataset).status();
}

absl::Status TuningService::CheckTunedModelId(const JobSpec& spec) const {
  if (spec.tuned_model_id.empty()) return absl::OkStatus();
  absl::Status status = deps_.models->Get(spec.tuned_model_id).status();
  if (absl::IsNotFound(status)) return absl::OkStatus();
  if (!status.ok() && GetErrorDetails(status).reason != "MODEL_IS_ALIAS") return status;
  return MakeError(absl::StatusCode::kAlreadyExists, "MODEL_EXISTS",
                   absl::StrCat("'models/", spec.tuned_model_id, "' is there already."), {},
                   {{"tuning_job.tuned_model_id", "is taken"}});
}

absl::Status TuningService::DoCreate(Call& call, const v1::CreateTuningJobRequest& request, v1::TuningJob* response) {
  ATTUNE_RETURN_IF_ERROR(CheckCreate(request));
  ATTUNE_ASSIGN_OR_RETURN(JobSpec spec, ToJobSpec(request.tuning_job(), request.tuning_job_id()));
  // A repeated request succeeds whatever has become of the things it names.
  absl::StatusOr<Job> job = deps_.job_store->FindRequest(spec, request.request_id());
  if (absl::IsNotFound(job.status())) {
    ATTUNE_RETURN_IF_ERROR(CheckResources(spec));
    ATTUNE_RETURN_IF_ERROR(CheckTunedModelId(spec));
    job = deps_.jobs->Create(spec, request.request_id());
  }
  ATTUNE_RETURN_IF_ERROR(job.status());
  *response = ToProto(*job);
  call.Note("job", response->name());
  return absl::OkStatus();
}

grpc::Status TuningService::CreateTuningJob(grpc::ServerContext* context, const v1::CreateTuningJobRequest* request,
                                            v1::TuningJob* response) {
  return ServeCall(context, deps_.metrics, kService, "CreateTuningJob",
                   [&](Call& call) { return DoCreate(call, *request, response); });
}

grpc::Status TuningService::GetTuningJob(grpc::ServerContext* context, const v1::GetTuningJobRequest* request,
                                         v1::TuningJob* response) {
  return ServeCall(context, deps_.metrics, kService, "GetTuningJob", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, JobId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(Job job, deps_.jobs->Get(id));
    *response = ToProto(job);
    return absl::OkStatus();
  });
}

absl::Status TuningService::DoList(const v1::ListTuningJobsRequest& request, v1::ListTuningJobsResponse* response) {
  JobStore::Filter filter;
  for (int state : request.states()) {
    if (state == v1::TuningJob::STATE_UNSPECIFIED || !v1::TuningJob::State_IsValid(state)) {
      return InvalidField("states", "must hold known states only");
    }
    filter.states.push_back(static_cast<JobState>(state));
  }
  filter.tenant = request.tenant();
  std::vector<int> states(request.states().begin(), request.states().end());
  std::sort(states.begin(), states.end());
  const std::string scope = absl::StrCat(kTuningJobs, ";", absl::StrJoin(states, ","), ";", filter.tenant);
  std::string next;
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Job> jobs, ListPage(scope, request, [&](int limit, int64_t before) {
                            return deps_.jobs->List(limit, before, filter);
                          }, &next));
  for (const Job& job : jobs) *response->add_tuning_jobs() = ToProto(job);
  response->set_next_page_token(next);
  return absl::OkStatus();
}

grpc::Status TuningService::ListTuningJobs(grpc::ServerContext* context, const v1::ListTuningJobsRequest* request,
                                           v1::ListTuningJobsResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ListTuningJobs",
                   [&](Call&) { return DoList(*request, response); });
}

template <typename Request>
grpc::Status TuningService::Run(grpc::ServerContext* context, const char* method, Command command,
                                const Request& request, v1::TuningJob* response) {
  return ServeCall(context, deps_.metrics, kService, method, [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, JobId(call, request.name()));
    ATTUNE_ASSIGN_OR_RETURN(Job job, (deps_.jobs->*command)(id, request.etag()));
    *response = ToProto(job);
    return absl::OkStatus();
  });
}

grpc::Status TuningService::CancelTuningJob(grpc::ServerContext* context, const v1::CancelTuningJobRequest* request,
                                            v1::TuningJob* response) {
  return Run(context, "CancelTuningJob", &JobManager::Cancel, *request, response);
}

grpc::Status TuningService::PauseTuningJob(grpc::ServerContext* context, const v1::PauseTuningJobRequest* request,
                                           v1::TuningJob* response) {
  return Run(context, "PauseTuningJob", &JobManager::Pause, *request, response);
}

grpc::Status TuningService::ResumeTuningJob(grpc::ServerContext* context, const v1::ResumeTuningJobRequest* request,
                                            v1::TuningJob* response) {
  return Run(context, "ResumeTuningJob", &JobManager::Resume, *request, response);
}

grpc::Status TuningService::DeleteTuningJob(grpc::ServerContext* context, const v1::DeleteTuningJobRequest* request,
                                            google::protobuf::Empty*) {
  return ServeCall(context, deps_.metrics, kService, "DeleteTuningJob", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, JobId(call, request->name()));
    return deps_.jobs->Delete(id, request->etag());
  });
}

absl::Status TuningService::DoWatch(Call& call, const v1::WatchTuningJobRequest& request,
                                    grpc::ServerWriter<v1::JobEvent>* writer) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, JobId(call, request.name()));
  if (request.after_sequence() < 0) return InvalidField("after_sequence", "must not be negative");
  CancelWatcher::Watch watch(
      deps_.cancel_watcher, [&call] { return call.cancelled(); }, [this] { deps_.jobs->WakeWatchers(); });
  int64_t sequence = request.after_sequence();
  while (true) {
    absl::StatusOr<JobManager::EventBatch> batch = deps_.jobs->WaitForEvents(
        id, sequence, absl::Now() + kWatchWait, [&call] { return call.cancelled(); });
    if (call.cancelled()) return call.CancelledStatus();
    ATTUNE_RETURN_IF_ERROR(batch.status());
    for (const JobEvent& event : batch->events) {
      if (!writer->Write(ToProto(event, id))) return call.CancelledStatus();
      sequence = event.sequence;
    }
    if (batch->ended) return absl::OkStatus();
  }
}

grpc::Status TuningService::WatchTuningJob(grpc::ServerContext* context, const v1::WatchTuningJobRequest* request,
                                           grpc::ServerWriter<v1::JobEvent>* writer) {
  return ServeCall(context, deps_.metrics, kService, "WatchTuningJob",
                   [&](Call& call) { return DoWatch(call, *request, writer); });
}

grpc::Status TuningService::ListCheckpoints(grpc::ServerContext* context, const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ListCheckpoints", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, JobId(call, request->parent(), "parent"));
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Checkpoint> checkpoints, deps_.jobs->ListCheckpoints(id));
    for (const Checkpoint& checkpoint : checkpoints) *response->add_checkpoints() = ToProto(checkpoint, id);
    return absl::OkStatus();
  });
}

grpc::Status TuningService::EstimateTuningJob(grpc::ServerContext* context,
                                              const v1::EstimateTuningJobRequest* request,
                                              v1::EstimateTuningJobResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "EstimateTuningJob", [&](Call& call) -> absl::Status {
    if (!request->has_tuning_job()) return InvalidField("tuning_job", "is required");
    ATTUNE_ASSIGN_OR_RETURN(JobSpec spec, ToJobSpec(request->tuning_job(), ""));
    ATTUNE_RETURN_IF_ERROR(CheckResources(spec));
    ATTUNE_ASSIGN_OR_RETURN(JobManager::Estimate estimate, deps_.jobs->EstimateJob(spec));
    *response = ToProto(estimate);
    return absl::OkStatus();
  });
}

}  // namespace attune
