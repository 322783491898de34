#ifndef ATTUNE_SERVER_RPC_ALIAS_SERVICE_H_
#define ATTUNE_SERVER_RPC_ALIAS_SERVICE_H_

#include "attune/v1/alias_service.grpc.pb.h"
#include "server/adapters/alias_store.h"
#include "server/jobs/job_store.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"

namespace attune {

// See proto/attune/v1/alias_service.proto. Thread-safe.
class AliasService final : public v1::AliasService::Service {
 public:
  struct Deps {  // all outlive the service
    AliasStore* aliases = nullptr;
    const JobStore* job_store = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit AliasService(const Deps& deps) : deps_(deps) {}

  grpc::Status SetAlias(grpc::ServerContext* context, const v1::SetAliasRequest* request, v1::Alias* response) override;
  grpc::Status GetAlias(grpc::ServerContext* context, const v1::GetAliasRequest* request, v1::Alias* response) override;
  grpc::Status ListAliases(grpc::ServerContext* context, const v1::ListAliasesRequest* request,
                           v1::ListAliasesResponse* response) override;
  grpc::Status RollBackAlias(grpc::ServerContext* context, const v1::RollBackAliasRequest* request,
                             v1::Alias* response) override;
  grpc::Status DeleteAlias(grpc::ServerContext* context, const v1::DeleteAliasRequest* request,
                           google::protobuf::Empty* response) override;

 private:
  absl::Status DoSet(Call& call, const v1::SetAliasRequest& request, v1::Alias* response);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_ALIAS_SERVICE_H_
