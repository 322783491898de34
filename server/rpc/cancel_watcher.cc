#include "server/rpc/cancel_watcher.h"

#include <utility>

namespace attune {

CancelWatcher::CancelWatcher(absl::Duration interval) : interval_(interval) {
  thread_ = std::thread([this] { Loop(); });
}

CancelWatcher::~CancelWatcher() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

CancelWatcher::Watch::Watch(CancelWatcher* watcher, std::function<bool()> is_cancelled,
                            std::function<void()> on_cancel)
    : watcher_(watcher) {
  absl::MutexLock lock(&watcher_->mutex_);
  id_ = watcher_->next_id_++;
  watcher_->entries_[id_] = {std::move(is_cancelled), std::move(on_cancel)};
  if (watcher_->entries_.size() == 1) watcher_->changed_.SignalAll();
}

CancelWatcher::Watch::~Watch() {
  absl::MutexLock lock(&watcher_->mutex_);
  watcher_->entries_.erase(id_);
}

void CancelWatcher::Loop() {
  absl::MutexLock lock(&mutex_);
  while (!stopping_) {
    for (auto it = entries_.begin(); it != entries_.end();) {
      if (it->second.is_cancelled()) {
        it->second.on_cancel();
        it = entries_.erase(it);
      } else {
        ++it;
      }
    }
    if (entries_.empty()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitWithTimeout(&mutex_, interval_);
    }
  }
}

}  // namespace attune
