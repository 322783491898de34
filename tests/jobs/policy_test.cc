#include "server/jobs/policy.h"

#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

QueueSnapshot Snapshot(std::vector<QueuedJob> queued) {
  QueueSnapshot snapshot;
  snapshot.now = kStart;
  snapshot.queued = std::move(queued);
  snapshot.free_memory_bytes = 100;
  snapshot.free_slots = 1;
  return snapshot;
}

QueuedJob Queued(std::string id, int64_t position, std::string tenant = "a", int priority = 0, int64_t memory = 1,
                 absl::Time queue_time = kStart) {
  return {std::move(id), priority, std::move(tenant), position, queue_time, memory};
}

TEST(PolicyTest, NothingToStart) {
  EXPECT_EQ(PickJob(Snapshot({})), std::nullopt);
  QueueSnapshot full = Snapshot({Queued("x", 1)});
  full.free_slots = 0;
  EXPECT_EQ(PickJob(full), std::nullopt);
}

TEST(PolicyTest, OldestFirst) { EXPECT_EQ(PickJob(Snapshot({Queued("new", 2), Queued("old", 1)})), "old"); }

TEST(PolicyTest, PriorityBeforeShareAndAge) {
  QueueSnapshot snapshot = Snapshot({Queued("old", 1, "idle", 0), Queued("urgent", 2, "heavy", 1)});
  snapshot.tenant_seconds = {{"heavy", 1e6}};
  EXPECT_EQ(PickJob(snapshot), "urgent");
}

TEST(PolicyTest, LessUsedTenantBeforeAge) {
  QueueSnapshot snapshot = Snapshot({Queued("old", 1, "heavy"), Queued("new", 2, "light")});
  snapshot.tenant_seconds = {{"heavy", 10}, {"light", 9}};
  EXPECT_EQ(PickJob(snapshot), "new");
}

TEST(PolicyTest, EqualUseThenFewerRunningJobs) {
  QueueSnapshot snapshot = Snapshot({Queued("old", 1, "runs"), Queued("new", 2, "waits")});
  snapshot.running = {{"runs", 1}};
  EXPECT_EQ(PickJob(snapshot), "new");
}

TEST(PolicyTest, SkipsWhatDoesNotFit) {
  QueueSnapshot snapshot = Snapshot({Queued("large", 1, "a", 0, 101), Queued("exact", 2, "a", 0, 100)});
  snapshot.running = {{"a", 50}};
  EXPECT_EQ(PickJob(snapshot), "exact");
}

TEST(PolicyTest, APatientLargeJobBlocksTheRest) {
  QueueSnapshot snapshot = Snapshot({Queued("large", 1, "a", 0, 101), Queued("small", 2, "a", 0, 1)});
  snapshot.running = {{"a", 50}};
  snapshot.now = kStart + snapshot.patience - absl::Seconds(1);
  EXPECT_EQ(PickJob(snapshot), "small");
  snapshot.now = kStart + snapshot.patience;
  EXPECT_EQ(PickJob(snapshot), std::nullopt);
  // What comes before it in the order is not held up.
  snapshot.queued.push_back(Queued("urgent", 3, "a", 5, 1));
  EXPECT_EQ(PickJob(snapshot), "urgent");
}

TEST(PolicyTest, AJobThatCannotFitAnywayBlocksNobody) {
  QueueSnapshot snapshot = Snapshot({Queued("too large", 1, "a", 0, 151), Queued("small", 2)});
  snapshot.running = {{"a", 50}};
  snapshot.now = kStart + absl::Hours(100);
  EXPECT_EQ(PickJob(snapshot), "small");
}

// Plays a random trace of arrivals against the policy.
class Simulation {
 public:
  Simulation(int seed, bool priorities) : random_(seed), priorities_(priorities) {}

  struct Result {
    absl::Duration longest_wait;
    int started = 0;
  };

  // Jobs keep coming, a little more than the device can do, for `arrivals` jobs; then it drains.
  Result Play(int arrivals) {
    Result result;
    int64_t next = 1;
    while (next <= arrivals || !queued_.empty() || !running_.empty()) {
      now_ += absl::Seconds(10);
      Finish();
      if (next <= arrivals && Draw(4) == 0) Arrive(next++);
      while (std::optional<std::string> id = PickJob(View())) Start(*id, &result);
      EXPECT_LT(now_, kStart + absl::Hours(10000)) << "the queue is stuck";
      if (now_ >= kStart + absl::Hours(10000)) break;
    }
    return result;
  }

 private:
  struct Active {
    RunningJob job;
    absl::Time end;
  };

  int Draw(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }

  void Arrive(int64_t position) {
    const int64_t memory = Draw(10) == 0 ? kMemory : 1 + Draw(kMemory / 2);  // now and then the whole device
    queued_.push_back({absl::StrCat("job-", position), priorities_ ? Draw(3) : 0, absl::StrCat("tenant-", Draw(3)),
                       position, now_, memory});
  }

  void Finish() {
    std::erase_if(running_, [&](const Active& active) { return active.end <= now_; });
  }

  QueueSnapshot View() const {
    QueueSnapshot snapshot;
    snapshot.now = now_;
    snapshot.queued = queued_;
    snapshot.free_memory_bytes = kMemory;
    for (const Active& active : running_) {
      snapshot.running.push_back(active.job);
      snapshot.free_memory_bytes -= active.job.memory_bytes;
    }
    snapshot.free_slots = kSlots - static_cast<int>(running_.size());
    snapshot.tenant_seconds = seconds_;
    return snapshot;
  }

  void Start(const std::string& id, Result* result) {
    auto job = std::find_if(queued_.begin(), queued_.end(), [&](const QueuedJob& q) { return q.id == id; });
    ASSERT_NE(job, queued_.end());
    ASSERT_LE(job->memory_bytes, View().free_memory_bytes);
    ASSERT_GT(View().free_slots, 0);
    for (const QueuedJob& other : queued_) {
      // Within a tenant and priority only memory may change the order.
      if (other.tenant == job->tenant && other.priority == job->priority && other.position < job->position) {
        EXPECT_GT(other.memory_bytes, View().free_memory_bytes);
      }
    }
    result->longest_wait = std::max(result->longest_wait, now_ - job->queue_time);
    ++result->started;
    const absl::Duration length = absl::Seconds(10 * (1 + Draw(12)));
    seconds_[job->tenant] += absl::ToDoubleSeconds(length);
    running_.push_back({{job->tenant, job->memory_bytes}, now_ + length});
    queued_.erase(job);
  }

  static constexpr int kMemory = 100;
  static constexpr int kSlots = 4;
  std::mt19937 random_;
  const bool priorities_;
  absl::Time now_ = kStart;
  std::vector<QueuedJob> queued_;
  std::vector<Active> running_;
  std::map<std::string, double> seconds_;
};

TEST(PolicyPropertyTest, EveryJobOfEveryTraceRuns) {
  for (int seed = 0; seed < 40; ++seed) {
    EXPECT_EQ(Simulation(seed, /*priorities=*/true).Play(300).started, 300) << "seed " << seed;
  }
}

TEST(PolicyPropertyTest, WithoutPrioritiesNoJobWaitsLongerThanTheBacklogExplains) {
  for (int seed = 0; seed < 40; ++seed) {
    Simulation::Result result = Simulation(seed, /*priorities=*/false).Play(300);
    EXPECT_EQ(result.started, 300);
    // 300 jobs of 65 s on average, one after the other, would take 5.4 hours.
    EXPECT_LT(result.longest_wait, absl::Hours(3)) << "seed " << seed;
  }
}

TEST(PolicyPropertyTest, SmallJobsKeepALargeOneOutForBoundedTimeOnly) {
  // Two halves of the memory, freed at different times, with small jobs always
  // at hand to fill each: without patience the whole would never be free at once.
  std::vector<absl::Time> ends = {kStart + absl::Minutes(3)};
  QueueSnapshot snapshot = Snapshot({Queued("large", 1, "a", 0, 100)});
  for (int64_t minute = 0; minute < 120; ++minute) {
    snapshot.now = kStart + absl::Minutes(minute);
    snapshot.queued.push_back(Queued(absl::StrCat("small-", minute), 2 + minute, "a", 0, 50, snapshot.now));
    while (true) {
      std::erase_if(ends, [&](absl::Time end) { return end <= snapshot.now; });
      snapshot.running.assign(ends.size(), {"a", 50});
      snapshot.free_memory_bytes = 100 - 50 * static_cast<int64_t>(ends.size());
      std::optional<std::string> id = PickJob(snapshot);
      if (!id) break;
      if (*id == "large") {
        EXPECT_GE(snapshot.now - kStart, snapshot.patience);  // else the trace proves nothing
        EXPECT_LE(snapshot.now - kStart, snapshot.patience + absl::Minutes(5));
        return;
      }
      std::erase_if(snapshot.queued, [&](const QueuedJob& job) { return job.id == *id; });
      ends.push_back(snapshot.now + absl::Minutes(5));
    }
  }
  FAIL() << "the large job never ran";
}

}  // namespace
}  // namespace attune
