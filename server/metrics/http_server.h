#ifndef ATTUNE_SERVER_METRICS_HTTP_SERVER_H_
#define ATTUNE_SERVER_METRICS_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace attune {

// The plain HTTP side: GET /metrics (Prometheus' text format), /healthz (200 as long
// as the process answers) and /readyz (200 while `ready` says so, 503 else). Has
// threads of its own, so that it answers however busy the rest is. Thread-safe.
class HttpServer {
 public:
  struct Options {
    std::string address = "127.0.0.1:7780";  // HOST:PORT; port 0 picks a free one
    std::function<std::string()> metrics;
    std::function<bool()> ready;
  };

  // INVALID_ARGUMENT (BAD_ADDRESS), UNAVAILABLE (LISTEN_FAILED).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Options options);
  // Stops and waits for answers under way.
  virtual ~HttpServer() = default;
  virtual int port() const = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_METRICS_HTTP_SERVER_H_
