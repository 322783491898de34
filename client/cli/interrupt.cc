#include "client/cli/interrupt.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace attune::cli {
namespace {

std::atomic<int> g_pipe{-1};

// Cancelling takes locks, which a signal handler must not: it only wakes the thread.
void OnInterrupt(int) {
  int saved = errno;
  char byte = 'c';
  if (write(g_pipe.load(), &byte, 1) < 0) {
    // The pipe is full of wake-ups already.
  }
  errno = saved;
}

void WaitForInterrupt(int fd, Cancellation* cancellation) {
  char byte = 0;
  ssize_t n;
  do n = read(fd, &byte, 1);
  while (n < 0 && errno == EINTR);
  if (n == 1) cancellation->Cancel();
}

}  // namespace

InterruptGuard::InterruptGuard(Cancellation* cancellation) {
  if (pipe2(pipe_, O_CLOEXEC) != 0) return;
  g_pipe = pipe_[1];
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  // SA_RESETHAND: the second Ctrl-C has its usual effect.
  action.sa_flags = SA_RESTART | SA_RESETHAND;
  sigaction(SIGINT, &action, &old_);
  thread_ = std::thread(WaitForInterrupt, pipe_[0], cancellation);
}

InterruptGuard::~InterruptGuard() {
  if (!thread_.joinable()) return;
  sigaction(SIGINT, &old_, nullptr);
  g_pipe = -1;
  close(pipe_[1]);  // ends the thread's read
  thread_.join();
  close(pipe_[0]);
}

}  // namespace attune::cli
