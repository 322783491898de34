#ifndef ATTUNE_SERVER_RPC_TUNING_SERVICE_H_
#define ATTUNE_SERVER_RPC_TUNING_SERVICE_H_

#include <string>

#include "attune/v1/tuning_service.grpc.pb.h"
#include "server/adapters/registry.h"
#include "server/data/dataset_store.h"
#include "server/jobs/job_store.h"
#include "server/jobs/manager.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"
#include "server/rpc/cancel_watcher.h"

namespace attune {

// See proto/attune/v1/tuning_service.proto. Thread-safe.
class TuningService final : public v1::TuningService::Service {
 public:
  struct Deps {  // all outlive the service
    JobManager* jobs = nullptr;
    const JobStore* job_store = nullptr;
    const DatasetStore* datasets = nullptr;
    const ModelRegistry* models = nullptr;
    CancelWatcher* cancel_watcher = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit TuningService(const Deps& deps) : deps_(deps) {}

  grpc::Status CreateTuningJob(grpc::ServerContext* context, const v1::CreateTuningJobRequest* request,
                               v1::TuningJob* response) override;
  grpc::Status GetTuningJob(grpc::ServerContext* context, const v1::GetTuningJobRequest* request,
                            v1::TuningJob* response) override;
  grpc::Status ListTuningJobs(grpc::ServerContext* context, const v1::ListTuningJobsRequest* request,
                              v1::ListTuningJobsResponse* response) override;
  grpc::Status CancelTuningJob(grpc::ServerContext* context, const v1::CancelTuningJobRequest* request,
                               v1::TuningJob* response) override;
  grpc::Status PauseTuningJob(grpc::ServerContext* context, const v1::PauseTuningJobRequest* request,
                              v1::TuningJob* response) override;
  grpc::Status ResumeTuningJob(grpc::ServerContext* context, const v1::ResumeTuningJobRequest* request,
                               v1::TuningJob* response) override;
  grpc::Status DeleteTuningJob(grpc::ServerContext* context, const v1::DeleteTuningJobRequest* request,
                               google::protobuf::Empty* response) override;
  grpc::Status WatchTuningJob(grpc::ServerContext* context, const v1::WatchTuningJobRequest* request,
                              grpc::ServerWriter<v1::JobEvent>* writer) override;
  grpc::Status ListCheckpoints(grpc::ServerContext* context, const v1::ListCheckpointsRequest* request,
                               v1::ListCheckpointsResponse* response) override;
  grpc::Status EstimateTuningJob(grpc::ServerContext* context, const v1::EstimateTuningJobRequest* request,
                                 v1::EstimateTuningJobResponse* response) override;

 private:
  // What a job names must be there, and the base model be one that can be tuned.
  absl::Status CheckResources(const JobSpec& spec) const;
  absl::Status CheckTunedModelId(const JobSpec& spec) const;
  absl::Status DoCreate(Call& call, const v1::CreateTuningJobRequest& request, v1::TuningJob* response);
  absl::Status DoList(const v1::ListTuningJobsRequest& request, v1::ListTuningJobsResponse* response);
  absl::Status DoWatch(Call& call, const v1::WatchTuningJobRequest& request,
                       grpc::ServerWriter<v1::JobEvent>* writer);
  // Cancel, Pause and Resume differ in nothing else.
  using Command = absl::StatusOr<Job> (JobManager::*)(absl::string_view id, absl::string_view etag);
  template <typename Request>
  grpc::Status Run(grpc::ServerContext* context, const char* method, Command command, const Request& request,
                   v1::TuningJob* response);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_TUNING_SERVICE_H_
