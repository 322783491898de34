#ifndef ATTUNE_COMMON_STATUS_H_
#define ATTUNE_COMMON_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "common/error.h"

// The only place where absl::Status and grpc::Status meet.
namespace attune {

// Code, message and details; google.rpc.Status with ErrorInfo (domain
// "attune.dev") and BadRequest goes into the `grpc-status-details-bin` trailer.
// A status without a reason gets its code's name as reason.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The way back, on the client's side.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace attune

#endif  // ATTUNE_COMMON_STATUS_H_
