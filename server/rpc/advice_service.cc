#include "server/rpc/advice_service.h"

#include <string>
#include <utility>

#include "common/error.h"
#include "common/resource_name.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_advice.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "AdviceService";

}  // namespace

absl::Status AdviceService::DoAdvise(Call& call, const v1::AdviseRequest& request,
                                     grpc::ServerWriter<v1::AdviseResponse>* writer) {
  ATTUNE_ASSIGN_OR_RETURN(AdviceRequest asked, ToAdviceRequest(request));
  call.Note("model", request.base_model());
  call.Note("dataset", request.dataset());
  v1::AdviseResponse message;
  const absl::StatusOr<Advice> advice = deps_.advisor->Advise(asked, [&](const std::string& what) {
    if (call.cancelled()) return false;
    if (what == message.progress()) return true;
    message.set_progress(what);
    return writer->Write(message);
  });
  if (call.cancelled()) return call.CancelledStatus();
  ATTUNE_RETURN_IF_ERROR(advice.status());
  message.set_progress("done");
  *message.mutable_advice() = ToProto(*advice);
  return writer->Write(message) ? absl::OkStatus() : call.CancelledStatus();
}

grpc::Status AdviceService::Advise(grpc::ServerContext* context, const v1::AdviseRequest* request,
                                   grpc::ServerWriter<v1::AdviseResponse>* writer) {
  return ServeCall(context, deps_.metrics, kService, "Advise",
                   [&](Call& call) { return DoAdvise(call, *request, writer); });
}

grpc::Status AdviceService::Retrospect(grpc::ServerContext* context, const v1::RetrospectRequest* request,
                                       v1::Retrospective* response) {
  return ServeCall(context, deps_.metrics, kService, "Retrospect", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kComparisons, request->comparison(), "comparison"));
    call.Note("comparison", request->comparison());
    ATTUNE_ASSIGN_OR_RETURN(Retrospective found, deps_.advisor->Retrospect(id));
    *response = ToProto(found);
    return absl::OkStatus();
  });
}

}  // namespace attune
