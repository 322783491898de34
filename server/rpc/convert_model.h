#ifndef ATTUNE_SERVER_RPC_CONVERT_MODEL_H_
#define ATTUNE_SERVER_RPC_CONVERT_MODEL_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attune/v1/model.pb.h"
#include "attune/v1/model_service.pb.h"
#include "server/adapters/registry.h"

// Models: protobuf to the server's types and back.
namespace attune {

// The fields that a user may set; `field` is the message's path in the request.
absl::Status CheckModelText(const v1::Model& model, absl::string_view field);
absl::StatusOr<ModelRegistry::ImportOptions> ToImportOptions(const v1::ImportModelRequest& request);

v1::Model ToProto(const ModelInfo& info);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_MODEL_H_
