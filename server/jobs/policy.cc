#include "server/jobs/policy.h"

#include <algorithm>
#include <tuple>

namespace attune {
namespace {

// Smaller comes first; see policy.h.
using Rank = std::tuple<int32_t, double, int, int64_t>;

class Ranking {
 public:
  explicit Ranking(const QueueSnapshot& snapshot) : seconds_(snapshot.tenant_seconds) {
    for (const RunningJob& job : snapshot.running) ++running_[job.tenant];
  }

  Rank Of(const QueuedJob& job) const {
    auto seconds = seconds_.find(job.tenant);
    auto running = running_.find(job.tenant);
    return {-job.priority, seconds == seconds_.end() ? 0 : seconds->second,
            running == running_.end() ? 0 : running->second, job.position};
  }

 private:
  const std::map<std::string, double>& seconds_;
  std::map<std::string, int> running_;
};

// Whether the end of every running job would make room for it.
bool CouldFit(const QueuedJob& job, const QueueSnapshot& snapshot) {
  int64_t missing = job.memory_bytes - snapshot.free_memory_bytes;
  for (const RunningJob& running : snapshot.running) missing -= running.memory_bytes;
  return missing <= 0;
}

}  // namespace

std::optional<std::string> PickJob(const QueueSnapshot& snapshot) {
  if (snapshot.free_slots <= 0) return std::nullopt;
  const Ranking ranking(snapshot);
  std::vector<std::pair<Rank, const QueuedJob*>> order;
  for (const QueuedJob& job : snapshot.queued) order.emplace_back(ranking.Of(job), &job);
  std::sort(order.begin(), order.end());
  for (const auto& [rank, job] : order) {
    if (job->memory_bytes <= snapshot.free_memory_bytes) return job->id;
    if (snapshot.now - job->queue_time >= snapshot.patience && CouldFit(*job, snapshot)) return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace attune
