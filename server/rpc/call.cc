#include "server/rpc/call.h"

#include <chrono>
#include <exception>
#include <new>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "common/status.h"

namespace attune {
namespace {

constexpr char kRequestIdKey[] = "x-request-id";
constexpr size_t kMostRequestIdBytes = 128;

bool IsUsableRequestId(absl::string_view id) {
  if (id.empty() || id.size() > kMostRequestIdBytes) return false;
  for (char c : id) {
    if (!absl::ascii_isgraph(c)) return false;
  }
  return true;
}

// A library that throws must cost one call, not the server.
absl::Status RunGuarded(Call& call, const std::function<absl::Status(Call&)>& body) {
  try {
    return body(call);
  } catch (const std::bad_alloc&) {
    return MakeError(absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY", "The server's memory ran out.");
  } catch (const std::exception& error) {
    return MakeError(absl::StatusCode::kInternal, "INTERNAL", error.what());
  }
}

bool IsServersFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

}  // namespace

Call::Call(grpc::ServerContext* context) : context_(context) {
  auto it = context->client_metadata().find(kRequestIdKey);
  if (it != context->client_metadata().end()) request_id_.assign(it->second.data(), it->second.size());
  if (!IsUsableRequestId(request_id_)) request_id_ = RandomId("request");
  context->AddInitialMetadata(kRequestIdKey, request_id_);
}

absl::Time Call::deadline() const {
  std::chrono::system_clock::time_point at = context_->deadline();
  if (at == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(at);
}

absl::Status Call::CancelledStatus() const {
  if (absl::Now() >= deadline()) return absl::DeadlineExceededError("The call's deadline has passed.");
  return absl::CancelledError("The caller has gone or cancelled the call.");
}

grpc::Status ServeCall(grpc::ServerContext* context, Metrics* metrics, absl::string_view service,
                       absl::string_view method, const std::function<absl::Status(Call&)>& body) {
  const absl::Time start = absl::Now();
  Call call(context);
  const absl::Status status = RunGuarded(call, body);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const std::string code = absl::StatusCodeToString(status.code());
  metrics->RpcFinished(service, method, code, seconds);

  LogFields fields = {{"method", absl::StrCat(service, ".", method)},
                      {"code", code},
                      {"seconds", absl::StrFormat("%.6f", seconds)},
                      {"request_id", call.request_id()}};
  if (!status.ok()) {
    fields.emplace_back("reason", GetErrorDetails(status).reason);
    fields.emplace_back("message", std::string(status.message()));
  }
  for (auto& note : call.notes_) fields.push_back(std::move(note));
  Log(IsServersFault(status.code()) ? LogLevel::kError : LogLevel::kInfo, "rpc", fields);
  return ToGrpcStatus(status);
}

}  // namespace attune
