#include "server/rpc/alias_service.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_alias.h"
#include "server/rpc/paging.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "AliasService";
constexpr size_t kMostRequestIdBytes = 128;

absl::StatusOr<std::string> AliasId(Call& call, const std::string& name, absl::string_view field = "name") {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kAliases, name, field));
  call.Note("alias", name);
  return id;
}

}  // namespace

absl::Status AliasService::DoSet(Call& call, const v1::SetAliasRequest& request, v1::Alias* response) {
  if (!request.has_alias()) return InvalidField("alias", "is required");
  ATTUNE_RETURN_IF_ERROR(CheckLength(request.request_id(), kMostRequestIdBytes, "request_id"));
  ATTUNE_ASSIGN_OR_RETURN(std::string id, AliasId(call, request.alias().name(), "alias.name"));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<AliasTarget> targets, ToAliasTargets(request.alias()));
  // Else the job would train to its end and find its name taken.
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> makers, deps_.job_store->ActiveMakersOfModel(id));
  if (!makers.empty()) {
    const std::string jobs = absl::StrJoin(makers, ",");
    return MakeError(absl::StatusCode::kFailedPrecondition, "ID_RESERVED",
                     absl::StrCat("The unfinished tuning job '", jobs, "' will publish the model '", id, "'."),
                     {{"tuning_jobs", jobs}});
  }
  ATTUNE_ASSIGN_OR_RETURN(Alias alias, deps_.aliases->Set(id, targets, request.alias().etag(), request.request_id()));
  *response = ToProto(alias);
  return absl::OkStatus();
}

grpc::Status AliasService::SetAlias(grpc::ServerContext* context, const v1::SetAliasRequest* request,
                                    v1::Alias* response) {
  return ServeCall(context, deps_.metrics, kService, "SetAlias",
                   [&](Call& call) { return DoSet(call, *request, response); });
}

grpc::Status AliasService::GetAlias(grpc::ServerContext* context, const v1::GetAliasRequest* request,
                                    v1::Alias* response) {
  return ServeCall(context, deps_.metrics, kService, "GetAlias", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, AliasId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(Alias alias, deps_.aliases->Get(id));
    *response = ToProto(alias);
    return absl::OkStatus();
  });
}

grpc::Status AliasService::ListAliases(grpc::ServerContext* context, const v1::ListAliasesRequest* request,
                                       v1::ListAliasesResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ListAliases", [&](Call&) -> absl::Status {
    std::string next;
    ATTUNE_ASSIGN_OR_RETURN(
        std::vector<Alias> page,
        ListPage(
            kAliases, *request, [&](int limit, int64_t before) { return deps_.aliases->List(limit, before); }, &next));
    for (const Alias& alias : page) *response->add_aliases() = ToProto(alias);
    response->set_next_page_token(next);
    return absl::OkStatus();
  });
}

grpc::Status AliasService::RollBackAlias(grpc::ServerContext* context, const v1::RollBackAliasRequest* request,
                                         v1::Alias* response) {
  return ServeCall(context, deps_.metrics, kService, "RollBackAlias", [&](Call& call) -> absl::Status {
    ATTUNE_RETURN_IF_ERROR(CheckLength(request->request_id(), kMostRequestIdBytes, "request_id"));
    ATTUNE_ASSIGN_OR_RETURN(std::string id, AliasId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(Alias alias, deps_.aliases->RollBack(id, request->etag(), request->request_id()));
    *response = ToProto(alias);
    return absl::OkStatus();
  });
}

grpc::Status AliasService::DeleteAlias(grpc::ServerContext* context, const v1::DeleteAliasRequest* request,
                                       google::protobuf::Empty*) {
  return ServeCall(context, deps_.metrics, kService, "DeleteAlias", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, AliasId(call, request->name()));
    ATTUNE_RETURN_IF_ERROR(deps_.aliases->Delete(id, request->etag()));
    deps_.metrics->ForgetAlias(id);
    return absl::OkStatus();
  });
}

}  // namespace attune
