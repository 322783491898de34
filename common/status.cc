#include "common/status.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace attune {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  ErrorDetails details = GetErrorDetails(status);
  google::rpc::Status rpc;
  rpc.set_code(static_cast<int>(status.code()));
  rpc.set_message(std::string(status.message()));
  google::rpc::ErrorInfo info;
  info.set_reason(details.reason.empty() ? absl::StatusCodeToString(status.code()) : details.reason);
  info.set_domain("attune.dev");
  for (const auto& [key, value] : details.metadata) (*info.mutable_metadata())[key] = value;
  rpc.add_details()->PackFrom(info);
  if (!details.violations.empty()) {
    google::rpc::BadRequest bad;
    for (const FieldViolation& v : details.violations) {
      auto* violation = bad.add_field_violations();
      violation->set_field(v.field);
      violation->set_description(v.description);
    }
    rpc.add_details()->PackFrom(bad);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      rpc.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  auto code = static_cast<absl::StatusCode>(status.error_code());
  google::rpc::Status rpc;
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  if (status.error_details().empty() || !rpc.ParseFromString(status.error_details())) {
    return absl::Status(code, status.error_message());
  }
  for (const auto& detail : rpc.details()) {
    if (detail.Is<google::rpc::ErrorInfo>()) detail.UnpackTo(&info);
    if (detail.Is<google::rpc::BadRequest>()) detail.UnpackTo(&bad);
  }
  std::map<std::string, std::string> metadata(info.metadata().begin(), info.metadata().end());
  std::vector<FieldViolation> violations;
  for (const auto& v : bad.field_violations()) violations.push_back({v.field(), v.description()});
  return MakeError(code, info.reason(), status.error_message(), std::move(metadata), std::move(violations));
}

}  // namespace attune
