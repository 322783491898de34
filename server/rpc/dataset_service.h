#ifndef ATTUNE_SERVER_RPC_DATASET_SERVICE_H_
#define ATTUNE_SERVER_RPC_DATASET_SERVICE_H_

#include <utility>

#include "attune/v1/dataset_service.grpc.pb.h"
#include "server/comparison/comparison_store.h"
#include "server/data/dataset_store.h"
#include "server/jobs/job_store.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"
#include "server/rpc/model_provider.h"

namespace attune {

// See proto/attune/v1/dataset_service.proto. Thread-safe.
class DatasetService final : public v1::DatasetService::Service {
 public:
  struct Deps {
    DatasetStore* datasets = nullptr;  // the pointers outlive the service
    const JobStore* job_store = nullptr;
    const ComparisonStore* comparison_store = nullptr;
    ModelProvider models;
    Metrics* metrics = nullptr;
  };
  explicit DatasetService(Deps deps) : deps_(std::move(deps)) {}

  grpc::Status UploadDataset(grpc::ServerContext* context, grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                             v1::Dataset* response) override;
  grpc::Status GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request,
                          v1::Dataset* response) override;
  grpc::Status ListDatasets(grpc::ServerContext* context, const v1::ListDatasetsRequest* request,
                            v1::ListDatasetsResponse* response) override;
  grpc::Status DeleteDataset(grpc::ServerContext* context, const v1::DeleteDatasetRequest* request,
                             google::protobuf::Empty* response) override;
  grpc::Status PreviewDataset(grpc::ServerContext* context, const v1::PreviewDatasetRequest* request,
                              v1::PreviewDatasetResponse* response) override;

 private:
  absl::Status DoUpload(Call& call, grpc::ServerReader<v1::UploadDatasetRequest>* reader, v1::Dataset* response);
  absl::Status DoPreview(Call& call, const v1::PreviewDatasetRequest& request, v1::PreviewDatasetResponse* response);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_DATASET_SERVICE_H_
