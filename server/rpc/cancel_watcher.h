#ifndef ATTUNE_SERVER_RPC_CANCEL_WATCHER_H_
#define ATTUNE_SERVER_RPC_CANCEL_WATCHER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace attune {

// Notices that callers have left while their handlers are blocked in something that
// does not look: one thread asks for all of them, and only while there are any.
// Thread-safe.
class CancelWatcher {
 public:
  explicit CancelWatcher(absl::Duration interval = absl::Milliseconds(20));
  ~CancelWatcher();
  CancelWatcher(const CancelWatcher&) = delete;
  CancelWatcher& operator=(const CancelWatcher&) = delete;

  // Watches until destroyed; once destroyed, neither function runs any more.
  class Watch {
   public:
    // Calls `on_cancel` once, on the watcher's thread, when `is_cancelled` has become
    // true. Neither may block or use the watcher. `watcher` must outlive this.
    Watch(CancelWatcher* watcher, std::function<bool()> is_cancelled, std::function<void()> on_cancel);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

   private:
    CancelWatcher* const watcher_;
    int64_t id_;
  };

 private:
  struct Entry {
    std::function<bool()> is_cancelled;
    std::function<void()> on_cancel;
  };

  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);

  const absl::Duration interval_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::map<int64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  int64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CANCEL_WATCHER_H_
