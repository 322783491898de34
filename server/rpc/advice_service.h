#ifndef ATTUNE_SERVER_RPC_ADVICE_SERVICE_H_
#define ATTUNE_SERVER_RPC_ADVICE_SERVICE_H_

#include "attune/v1/advice_service.grpc.pb.h"
#include "server/advice/advisor.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"

namespace attune {

// See proto/attune/v1/advice_service.proto. Thread-safe.
class AdviceService final : public v1::AdviceService::Service {
 public:
  struct Deps {  // all outlive the service
    const Advisor* advisor = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit AdviceService(const Deps& deps) : deps_(deps) {}

  grpc::Status Advise(grpc::ServerContext* context, const v1::AdviseRequest* request,
                      grpc::ServerWriter<v1::AdviseResponse>* writer) override;
  grpc::Status Retrospect(grpc::ServerContext* context, const v1::RetrospectRequest* request,
                          v1::Retrospective* response) override;

 private:
  absl::Status DoAdvise(Call& call, const v1::AdviseRequest& request, grpc::ServerWriter<v1::AdviseResponse>* writer);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_ADVICE_SERVICE_H_
