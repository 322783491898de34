#ifndef ATTUNE_SERVER_RPC_COMPARISON_SERVICE_H_
#define ATTUNE_SERVER_RPC_COMPARISON_SERVICE_H_

#include "attune/v1/comparison_service.grpc.pb.h"
#include "server/comparison/comparison_manager.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"
#include "server/rpc/cancel_watcher.h"

namespace attune {

// See proto/attune/v1/comparison_service.proto. Thread-safe.
class ComparisonService final : public v1::ComparisonService::Service {
 public:
  struct Deps {  // all outlive the service
    ComparisonManager* comparisons = nullptr;
    CancelWatcher* cancel_watcher = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit ComparisonService(const Deps& deps) : deps_(deps) {}

  grpc::Status CreateComparison(grpc::ServerContext* context, const v1::CreateComparisonRequest* request,
                                v1::Comparison* response) override;
  grpc::Status GetComparison(grpc::ServerContext* context, const v1::GetComparisonRequest* request,
                             v1::Comparison* response) override;
  grpc::Status ListComparisons(grpc::ServerContext* context, const v1::ListComparisonsRequest* request,
                               v1::ListComparisonsResponse* response) override;
  grpc::Status CancelComparison(grpc::ServerContext* context, const v1::CancelComparisonRequest* request,
                                v1::Comparison* response) override;
  grpc::Status DeleteComparison(grpc::ServerContext* context, const v1::DeleteComparisonRequest* request,
                                google::protobuf::Empty* response) override;
  grpc::Status WatchComparison(grpc::ServerContext* context, const v1::WatchComparisonRequest* request,
                               grpc::ServerWriter<v1::Comparison>* writer) override;
  grpc::Status GetComparisonReport(grpc::ServerContext* context, const v1::GetComparisonReportRequest* request,
                                   v1::GetComparisonReportResponse* response) override;

 private:
  absl::Status DoCreate(Call& call, const v1::CreateComparisonRequest& request, v1::Comparison* response);
  absl::Status DoWatch(Call& call, const v1::WatchComparisonRequest& request,
                       grpc::ServerWriter<v1::Comparison>* writer);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_COMPARISON_SERVICE_H_
