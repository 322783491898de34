#include "server/model/memory_meter.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "server/model/torch_target.h"

namespace attune {

// libtorch tells its profilers of every allocation; what follows a thread and the threads of its backward passes is
// the profiler's place in ThreadLocalDebugInfo.
class MemoryMeter::Count final : public c10::MemoryReportingInfoBase {
 public:
  explicit Count(c10::DeviceType device) : device_(device) {}

  bool memoryProfilingEnabled() const override { return true; }

  void reportMemoryUsage(void* address, int64_t bytes, size_t /*all_allocated*/, size_t /*all_reserved*/,
                         c10::Device device) override ABSL_LOCKS_EXCLUDED(mutex_) {
    if (device.type() != device_) return;
    absl::MutexLock lock(&mutex_);
    // What is freed may be from before the scope. What was freed elsewhere is known when its address comes again.
    if (const auto old = bytes_at_.find(address); old != bytes_at_.end()) {
      bytes_ -= old->second;
      bytes_at_.erase(old);
    }
    if (bytes <= 0) return;
    bytes_at_.emplace(address, bytes);
    bytes_ += bytes;
    peak_ = std::max(peak_, bytes_);
  }

  int64_t peak() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return peak_;
  }
  void CountBeside(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    peak_ = std::max(peak_, bytes_ + bytes);
  }

 private:
  const c10::DeviceType device_;
  absl::Mutex mutex_;
  absl::flat_hash_map<const void*, int64_t> bytes_at_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0, peak_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct MemoryMeter::Scope::Guard {
  explicit Guard(std::shared_ptr<c10::DebugInfoBase> count)
      : guard(c10::DebugInfoKind::PROFILER_STATE, std::move(count)) {}
  const c10::DebugInfoGuard guard;
};

MemoryMeter::MemoryMeter(const ComputeTarget& target) : count_(std::make_shared<Count>(DeviceOf(target).type())) {}

MemoryMeter::Scope::Scope(const MemoryMeter& meter) : guard_(std::make_unique<Guard>(meter.count_)) {}
MemoryMeter::Scope::~Scope() = default;

int64_t MemoryMeter::peak_bytes() const { return count_->peak(); }
void MemoryMeter::CountBeside(int64_t bytes) { count_->CountBeside(bytes); }

}  // namespace attune
