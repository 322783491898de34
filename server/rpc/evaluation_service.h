#ifndef ATTUNE_SERVER_RPC_EVALUATION_SERVICE_H_
#define ATTUNE_SERVER_RPC_EVALUATION_SERVICE_H_

#include <utility>

#include "attune/v1/evaluation_service.grpc.pb.h"
#include "server/data/dataset_store.h"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"
#include "server/rpc/model_provider.h"

namespace attune {

// See proto/attune/v1/evaluation_service.proto. Thread-safe.
class EvaluationService final : public v1::EvaluationService::Service {
 public:
  struct Deps {
    ModelProvider models;
    const DatasetStore* datasets = nullptr;  // the pointers outlive the service
    Engine* engine = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit EvaluationService(Deps deps) : deps_(std::move(deps)) {}

  grpc::Status Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest* request,
                        grpc::ServerWriter<v1::EvaluateResponse>* writer) override;

 private:
  absl::Status DoEvaluate(Call& call, const v1::EvaluateRequest& request,
                          grpc::ServerWriter<v1::EvaluateResponse>* writer);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_EVALUATION_SERVICE_H_
