#ifndef ATTUNE_SERVER_RPC_CALL_H_
#define ATTUNE_SERVER_RPC_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/metrics/metrics.h"

namespace attune {

// One gRPC call under way: who asked, until when, and what the log line will say.
// Used by the handler's thread only, except cancelled(), which is thread-safe.
class Call {
 public:
  // The caller's metadata "x-request-id", or made up. Sent back as initial metadata.
  const std::string& request_id() const { return request_id_; }
  // Adds to the call's log line, e.g. Note("model", "models/x"). `key` must be a constant.
  void Note(absl::string_view key, std::string value) { notes_.emplace_back(key, std::move(value)); }
  // Whether nobody waits for the answer any more: cancelled, gone, or past its deadline.
  bool cancelled() const { return context_->IsCancelled(); }
  // InfiniteFuture if the caller set none.
  absl::Time deadline() const;
  // What a handler returns once cancelled() is true: DEADLINE_EXCEEDED or CANCELLED.
  absl::Status CancelledStatus() const;

 private:
  friend grpc::Status ServeCall(grpc::ServerContext*, Metrics*, absl::string_view, absl::string_view,
                                const std::function<absl::Status(Call&)>&);
  explicit Call(grpc::ServerContext* context);

  grpc::ServerContext* const context_;
  std::string request_id_;
  std::vector<std::pair<absl::string_view, std::string>> notes_;
};

// Runs a handler's body; every handler is one call of this. Converts its status,
// counts it and writes one log line. A body that throws gives INTERNAL. `service`
// and `method` are names as in the proto.
grpc::Status ServeCall(grpc::ServerContext* context, Metrics* metrics, absl::string_view service,
                       absl::string_view method, const std::function<absl::Status(Call&)>& body);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CALL_H_
