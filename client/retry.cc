#include "client/retry.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/error.h"

namespace attune {

absl::Duration Backoff::Next() {
  absl::Duration pause = next_ * absl::Uniform(absl::IntervalClosed, random_, 0.5, 1.0);
  next_ = std::min(next_ * 2, options_.max_backoff);
  return pause;
}

Retrier::Retrier(const ClientOptions& options, absl::Time deadline, Cancellation* cancellation)
    : max_retries_(options.max_retries), deadline_(deadline), cancellation_(cancellation), backoff_(options) {}

bool Retrier::Again(const absl::Status& status) {
  if (!absl::IsUnavailable(status) || retries_ >= max_retries_) return false;
  absl::Duration pause = backoff_.Next();
  if (absl::Now() + pause >= deadline_ || !Pause(pause, cancellation_)) return false;
  ++retries_;
  return true;
}

bool IsBrokenStream(const absl::Status& status) {
  if (absl::IsUnavailable(status)) return true;
  bool from_transport = GetErrorDetails(status).reason.empty();
  return from_transport && (absl::IsCancelled(status) || absl::IsUnknown(status) || absl::IsInternal(status));
}

bool Pause(absl::Duration duration, Cancellation* cancellation) {
  if (cancellation != nullptr) return cancellation->SleepFor(duration);
  absl::SleepFor(duration);
  return true;
}

}  // namespace attune
