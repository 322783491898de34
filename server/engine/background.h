#ifndef ATTUNE_SERVER_ENGINE_BACKGROUND_H_
#define ATTUNE_SERVER_ENGINE_BACKGROUND_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace attune {

// Threads for what need not hold a step up. Thread-safe.
class Background {
 public:
  explicit Background(int threads);
  // Does first what was asked for.
  ~Background();
  void Run(std::function<void()> work) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_BACKGROUND_H_
