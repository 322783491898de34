#ifndef ATTUNE_CLIENT_CLI_INTERRUPT_H_
#define ATTUNE_CLIENT_CLI_INTERRUPT_H_

#include <signal.h>

#include <thread>

#include "client/cancellation.h"

namespace attune::cli {

// While it lives, Ctrl-C (SIGINT) cancels instead of ending the process. A
// second Ctrl-C ends the process as usual. REQUIRES: one at a time.
class InterruptGuard {
 public:
  // `cancellation` must outlive the guard.
  explicit InterruptGuard(Cancellation* cancellation);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  int pipe_[2] = {-1, -1};
  struct sigaction old_ = {};
  std::thread thread_;
};

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_INTERRUPT_H_
