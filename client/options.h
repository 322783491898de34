#ifndef ATTUNE_CLIENT_OPTIONS_H_
#define ATTUNE_CLIENT_OPTIONS_H_

#include "absl/time/time.h"

namespace attune {

// How a client behaves. The connection is plain text and carries no
// credentials: reach a remote server through a tunnel or a mesh that adds both.
struct ClientOptions {
  // Limit of a quick call, its retries included.
  absl::Duration deadline = absl::Seconds(60);
  // The same for calls that read or compute much: import, export, upload,
  // preview, estimate, generation and evaluation.
  absl::Duration long_deadline = absl::Hours(1);
  // Tries after the first one, for calls that are safe to repeat.
  int max_retries = 4;
  // Pause before the first retry; doubles with each, up to `max_backoff`. The
  // actual pause is drawn from the upper half of that, so that clients spread.
  absl::Duration initial_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);
  // A watch that lost its server gives up after so long without an event.
  absl::Duration reconnect_window = absl::Minutes(2);
};

}  // namespace attune

#endif  // ATTUNE_CLIENT_OPTIONS_H_
