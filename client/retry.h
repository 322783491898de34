#ifndef ATTUNE_CLIENT_RETRY_H_
#define ATTUNE_CLIENT_RETRY_H_

#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cancellation.h"
#include "client/options.h"

namespace attune {

// Growing pauses with jitter. Not thread-safe.
class Backoff {
 public:
  explicit Backoff(const ClientOptions& options) : options_(options), next_(options.initial_backoff) {}
  // The pause to make now: between half and all of the current step.
  absl::Duration Next();
  // Starts over.
  void Reset() { next_ = options_.initial_backoff; }

 private:
  const ClientOptions options_;
  absl::Duration next_;
  absl::BitGen random_;
};

// Decides and waits between the attempts of one call:
//   Retrier retrier(options, deadline, cancellation);
//   do status = attempt(); while (retrier.Again(status));
// Not thread-safe.
class Retrier {
 public:
  // `cancellation` may be null.
  Retrier(const ClientOptions& options, absl::Time deadline, Cancellation* cancellation);
  // True, after a pause, if an attempt that ended so is worth another one:
  // UNAVAILABLE, retries left, not cancelled, and the pause fits the deadline.
  bool Again(const absl::Status& status);
  // Retries that were granted.
  int retries() const { return retries_; }

 private:
  const int max_retries_;
  const absl::Time deadline_;
  Cancellation* const cancellation_;
  Backoff backoff_;
  int retries_ = 0;
};

// Whether a stream that ended so broke on the way, rather than being ended by
// an answer of the server. The server's own errors carry a reason.
bool IsBrokenStream(const absl::Status& status);

// Sleeps, or returns false early if `cancellation` (may be null) is cancelled.
bool Pause(absl::Duration duration, Cancellation* cancellation);

}  // namespace attune

#endif  // ATTUNE_CLIENT_RETRY_H_
