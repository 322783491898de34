#ifndef ATTUNE_SERVER_ENGINE_EMBEDDING_H_
#define ATTUNE_SERVER_ENGINE_EMBEDDING_H_

#include <functional>

#include "absl/time/time.h"
#include "server/engine/engine.h"

namespace attune {

// A request for embeddings, computed in parts by plain forward passes over whole inputs, which
// touch no KV cache. Used on the engine's thread only.
class EmbedTask {
 public:
  using Done = std::function<void(absl::StatusOr<EmbedResult>)>;
  EmbedTask(EmbedParams params, Done done, absl::Time arrival)
      : params_(std::move(params)), done_(std::move(done)), arrival_(arrival) {}

  const EmbedParams& params() const { return params_; }
  bool IsStarted() const { return next_ > 0; }
  // Computes the next inputs, of about so many tokens together but at least one; returns how many
  // tokens. Under a turn on the device.
  int64_t Step(int64_t most_tokens, absl::Time now);
  void Fail(absl::Status status) { status_ = std::move(status); }
  // All is computed, or it failed.
  bool IsDone() const { return !status_.ok() || next_ == params_.inputs.size(); }
  const absl::Status& status() const { return status_; }
  RequestTimings TimingsAt(absl::Time now) const;
  // Calls `done`. REQUIRES: IsDone().
  void Finish(absl::Time now);
  int64_t tokens() const { return tokens_; }

 private:
  const EmbedParams params_;
  const Done done_;
  const absl::Time arrival_;
  size_t next_ = 0;  // input
  int64_t tokens_ = 0;
  absl::Status status_;
  EmbedResult result_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_EMBEDDING_H_
