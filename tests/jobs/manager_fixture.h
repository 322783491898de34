#ifndef ATTUNE_TESTS_JOBS_MANAGER_FIXTURE_H_
#define ATTUNE_TESTS_JOBS_MANAGER_FIXTURE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "gtest/gtest.h"
#include "server/jobs/manager.h"
#include "tests/jobs/fake_runner.h"
#include "tests/testing/manual_clock.h"

namespace attune {

// A manager on a database in memory, a scripted runner and a clock that stands still.
class ManagerFixture : public ::testing::Test {
 protected:
  ManagerFixture() {
    database_ = *Database::Open(":memory:");
    store_ = *JobStore::Open(database_.get(), &clock_);
  }

  // Ends the manager there was, if any, as a restart of the server does.
  void Start(JobManager::Options options = {}) {
    manager_.reset();
    manager_ = std::make_unique<JobManager>(store_.get(), &runner_, &clock_, std::move(options));
    absl::Status status = manager_->Start();
    ASSERT_TRUE(status.ok()) << status;
  }

  static JobSpec Spec(std::string id, int priority = 0, std::string tenant = "a") {
    JobSpec spec;
    spec.id = std::move(id);
    spec.base_model = "base";
    spec.dataset = "data";
    spec.method = SoftPromptSpec();
    spec.priority = priority;
    spec.tenant = std::move(tenant);
    return spec;
  }

  Job Create(std::string id, int priority = 0, std::string tenant = "a") {
    absl::StatusOr<Job> job = manager_->Create(Spec(std::move(id), priority, std::move(tenant)), "");
    EXPECT_TRUE(job.ok()) << job.status();
    return *job;
  }

  Job CreateNeeding(std::string id, int64_t memory_bytes) {
    runner_.SetEstimate(JobEstimate{.peak_memory_bytes = memory_bytes});
    return Create(std::move(id));
  }

  // Blocks until the job has come into `state` (again, if after an event), and
  // returns that event's number.
  int64_t Await(const std::string& id, JobState state, int64_t after = 0) {
    while (true) {
      absl::StatusOr<JobManager::EventBatch> batch = manager_->WaitForEvents(id, after, absl::InfiniteFuture());
      if (!batch.ok()) {
        ADD_FAILURE() << batch.status();
        return after;
      }
      for (const JobEvent& event : batch->events) {
        after = event.sequence;
        if (event.type == JobEvent::Type::kStateChanged && event.state == state) return after;
      }
      if (batch->ended) {
        ADD_FAILURE() << id << " ended without coming into " << JobStateName(state);
        return after;
      }
    }
  }

  std::vector<JobEvent> Events(const std::string& id) { return store_->Events(id, 0, 10000)->events; }

  static std::string Reason(const absl::Status& status) { return GetErrorDetails(status).reason; }

  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> store_;
  FakeRunner runner_;
  std::unique_ptr<JobManager> manager_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_JOBS_MANAGER_FIXTURE_H_
