#include "server/job_counts.h"

#include <cstdint>
#include <vector>

#include "absl/time/clock.h"

namespace attune {
namespace {

constexpr int kPage = 1000;
// A deletion is announced just before it happens; this is how long a count that came in
// between may stand.
constexpr absl::Duration kMostAge = absl::Seconds(60);

JobCounts::Counts Zeros() {
  JobCounts::Counts zeros;
  for (const MethodSpec& method : {MethodSpec(FullSpec{}), MethodSpec(PartialSpec{}), MethodSpec(LoraSpec{}),
                                   MethodSpec(SoftPromptSpec{}), MethodSpec(PrefixSpec{}), MethodSpec(Ia3Spec{}),
                                   MethodSpec(TextPromptSpec{})}) {
    for (int state = static_cast<int>(JobState::kQueued); state <= static_cast<int>(JobState::kCancelled); ++state) {
      zeros[{std::string(JobStateName(static_cast<JobState>(state))), std::string(MethodName(method))}] = 0;
    }
  }
  return zeros;
}

}  // namespace

JobCounts::Counts JobCounts::Get() {
  absl::MutexLock lock(&mutex_);
  if (changed_ || absl::Now() - counted_ > kMostAge) Recount();
  return counts_;
}

void JobCounts::Changed() {
  absl::MutexLock lock(&mutex_);
  changed_ = true;
}

void JobCounts::Recount() {
  Counts counts = Zeros();
  int64_t before = INT64_MAX;
  while (true) {
    absl::StatusOr<std::vector<Job>> jobs = store_->List(kPage, before, {});
    if (!jobs.ok()) return;  // the old counts stand; the next scrape tries again
    for (const Job& job : *jobs) {
      ++counts[{std::string(JobStateName(job.state)), std::string(MethodName(job.spec.method))}];
      before = job.position;
    }
    if (jobs->size() < kPage) break;
  }
  counts_ = std::move(counts);
  changed_ = false;
  counted_ = absl::Now();
}

}  // namespace attune
