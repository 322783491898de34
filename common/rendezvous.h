#ifndef ATTUNE_COMMON_RENDEZVOUS_H_
#define ATTUNE_COMMON_RENDEZVOUS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace attune {

// Several threads' requests, done together by one of them: who came to the last round, or
// while it was under way, is waited for, so that those who keep coming meet, but only for
// `linger`, so that nobody waits for one who stays away. Holds no tensor. Thread-safe.
template <typename Request>
class Rendezvous {
 public:
  // Does all of them; called by one thread at a time. Must not throw.
  using Round = std::function<void(const std::vector<Request*>&)>;

  Rendezvous(Round round, absl::Duration linger) : round_(std::move(round)), linger_(linger) {}

  // Returns when a round has done the request.
  void Run(Request* request) ABSL_LOCKS_EXCLUDED(mutex_) {
    Waiter waiter{request};
    absl::MutexLock lock(&mutex_);
    queue_.push_back(&waiter);
    changed_.SignalAll();
    while (!waiter.done) {
      if (is_led_) {
        changed_.Wait(&mutex_);
        continue;
      }
      is_led_ = true;
      Lead();
      is_led_ = false;
      changed_.SignalAll();
    }
  }

  // Requests that no round has taken yet.
  int64_t waiting() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(queue_.size());
  }

 private:
  struct Waiter {
    Request* request;
    bool done = false;
  };

  void Lead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Time until = absl::Now() + linger_;
    while (queue_.size() < expected_ && !changed_.WaitWithDeadline(&mutex_, until)) {
    }
    std::vector<Waiter*> taken;
    taken.swap(queue_);
    std::vector<Request*> requests;
    for (const Waiter* waiter : taken) requests.push_back(waiter->request);
    mutex_.Unlock();
    round_(requests);
    mutex_.Lock();
    for (Waiter* waiter : taken) waiter->done = true;
    expected_ = taken.size() + queue_.size();
  }

  const Round round_;
  const absl::Duration linger_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::vector<Waiter*> queue_ ABSL_GUARDED_BY(mutex_);
  size_t expected_ ABSL_GUARDED_BY(mutex_) = 1;
  bool is_led_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace attune

#endif  // ATTUNE_COMMON_RENDEZVOUS_H_
