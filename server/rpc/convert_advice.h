#ifndef ATTUNE_SERVER_RPC_CONVERT_ADVICE_H_
#define ATTUNE_SERVER_RPC_CONVERT_ADVICE_H_

#include "absl/status/statusor.h"
#include "attune/v1/advice_service.pb.h"
#include "server/advice/advisor.h"

// Advice: protobuf to the server's types and back.
namespace attune {

// INVALID_ARGUMENT names the wrong field.
absl::StatusOr<AdviceRequest> ToAdviceRequest(const v1::AdviseRequest& request);

v1::Advice ToProto(const Advice& advice);
v1::Retrospective ToProto(const Retrospective& retrospective);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_ADVICE_H_
