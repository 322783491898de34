// How the manager runs jobs: order, memory, reports, failures, shutdown, recovery.
#include <new>
#include <stdexcept>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "server/jobs/manager.h"
#include "tests/jobs/manager_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ManagerRunTest : public ManagerFixture {
 protected:
  // Occupies the only slot until Cancel("busy"), so that a test can fill the queue.
  void StartBusy(JobManager::Options options = {}) {
    runner_.SetScript("busy", &FakeRunner::RunUntilStopped);
    Start(std::move(options));
    Create("busy");
    Await("busy", JobState::kRunning);
  }

  Job Fail(FakeRunner::Script script) {
    runner_.SetScript("j", std::move(script));
    Start();
    Create("j");
    Await("j", JobState::kFailed);
    return *manager_->Get("j");
  }
};

TEST_F(ManagerRunTest, PriorityThenAge) {
  StartBusy();
  Create("low", -1);
  Create("first");
  Create("second");
  Create("high", 1);
  ASSERT_TRUE(manager_->Cancel("busy", "").ok());
  Await("low", JobState::kSucceeded);
  EXPECT_THAT(runner_.started(), ElementsAre("busy", "high", "first", "second", "low"));
  EXPECT_EQ(runner_.most_at_once(), 1);
}

TEST_F(ManagerRunTest, TenantsShareFairly) {
  for (const char* id : {"a-1", "a-2", "b-1"}) {
    runner_.SetScript(id, [](const Job& job, JobControl& control) {
      absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
      control.AddTrainingSeconds(10);
      return outcome;
    });
  }
  StartBusy();
  Create("a-1", 0, "tenant-a");
  Create("a-2", 0, "tenant-a");
  Create("b-1", 0, "tenant-b");
  ASSERT_TRUE(manager_->Cancel("busy", "").ok());
  Await("a-2", JobState::kSucceeded);
  EXPECT_THAT(runner_.started(), ElementsAre("busy", "a-1", "b-1", "a-2"));
  EXPECT_EQ(manager_->Get("a-1")->training_seconds, 10);
}

TEST_F(ManagerRunTest, AsManyAtOnceAsThereAreSlots) {
  for (const char* id : {"one", "two"}) runner_.SetScript(id, &FakeRunner::RunUntilStopped);
  Start({.max_concurrent_jobs = 2});
  Create("one");
  Create("two");
  Create("three");
  Await("one", JobState::kRunning);
  Await("two", JobState::kRunning);
  EXPECT_EQ(manager_->Get("three")->state, JobState::kQueued);
  ASSERT_TRUE(manager_->Cancel("one", "").ok());
  Await("three", JobState::kSucceeded);
  EXPECT_EQ(runner_.most_at_once(), 2);
}

// Gives out memory as a device would.
class Memory {
 public:
  explicit Memory(int64_t total) : total_(total), free_(total) {}
  JobManager::Options Options() {
    JobManager::Options options;
    options.max_concurrent_jobs = 4;
    options.total_memory = [this] { return total_; };
    options.free_memory = [this] { return free(); };
    options.reserve_memory = [this](int64_t bytes) { return Take(bytes); };
    return options;
  }
  absl::StatusOr<std::shared_ptr<void>> Take(int64_t bytes) {
    absl::MutexLock lock(&mutex_);
    if (refuse_ || bytes > free_) return absl::ResourceExhaustedError("no memory");
    free_ -= bytes;
    return std::shared_ptr<void>(this, [bytes](void* memory) { static_cast<Memory*>(memory)->GiveBack(bytes); });
  }
  int64_t free() {
    absl::MutexLock lock(&mutex_);
    return free_;
  }
  void set_refuse(bool refuse) {
    absl::MutexLock lock(&mutex_);
    refuse_ = refuse;
  }

 private:
  void GiveBack(int64_t bytes) {
    absl::MutexLock lock(&mutex_);
    free_ += bytes;
  }
  const int64_t total_;
  absl::Mutex mutex_;
  int64_t free_ ABSL_GUARDED_BY(mutex_);
  bool refuse_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST_F(ManagerRunTest, JobsRunTogetherOnlyIfTheirMemoryFits) {
  Memory memory(100);
  for (const char* id : {"large", "larger"}) runner_.SetScript(id, &FakeRunner::RunUntilStopped);
  Start(memory.Options());
  CreateNeeding("large", 60);
  Await("large", JobState::kRunning);
  EXPECT_EQ(memory.free(), 40);
  CreateNeeding("larger", 70);
  CreateNeeding("small", 40);
  Await("small", JobState::kSucceeded);
  EXPECT_EQ(manager_->Get("larger")->state, JobState::kQueued);
  ASSERT_TRUE(manager_->Cancel("large", "").ok());
  Await("larger", JobState::kRunning);
  EXPECT_EQ(memory.free(), 30);
  manager_.reset();
  EXPECT_EQ(memory.free(), 100);
}

TEST_F(ManagerRunTest, RefusedMemoryLeavesTheJobQueuedUntilThereIsSome) {
  Memory memory(100);
  Start(memory.Options());
  memory.set_refuse(true);
  CreateNeeding("j", 50);
  manager_->CapacityChanged();
  EXPECT_EQ(manager_->Get("j")->state, JobState::kQueued);
  memory.set_refuse(false);
  manager_->CapacityChanged();
  Await("j", JobState::kSucceeded);
  manager_.reset();  // it asks `memory` to its end
}

TEST_F(ManagerRunTest, ProgressIsStoredOnceASecondAndAtTheEnd) {
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    for (int step = 1; step <= 30; ++step) {
      control.AddTrainingSeconds(0.5);
      EXPECT_TRUE(control.ReportProgress({.step = step}).ok());
      if (step == 10 || step == 20) clock_.Advance(absl::Seconds(1));
    }
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kSucceeded);
  std::vector<int64_t> steps;
  for (const JobEvent& event : Events("j")) {
    if (event.type == JobEvent::Type::kProgress) steps.push_back(event.progress->step);
  }
  EXPECT_THAT(steps, ElementsAre(1, 11, 21, 30));
  EXPECT_EQ(manager_->Get("j")->progress.step, 30);
  EXPECT_EQ(manager_->Get("j")->training_seconds, 15);
}

TEST_F(ManagerRunTest, EnergyIsAddedUpAndUnsetWhereNoneIsTold) {
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    for (int step = 1; step <= 3; ++step) {
      control.AddTrainingSeconds(1);
      control.AddEnergy(250);
      EXPECT_TRUE(control.ReportProgress({.step = step}).ok());
    }
    control.AddEnergy(7);  // after the last report
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kSucceeded);
  EXPECT_EQ(manager_->Get("j")->energy_joules, 757);
  Create("silent");
  Await("silent", JobState::kSucceeded);
  EXPECT_EQ(manager_->Get("silent")->energy_joules, std::nullopt);
}

TEST_F(ManagerRunTest, ACheckpointIsNeverAheadOfTheStoredProgress) {
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    for (int step = 1; step <= 3; ++step) {
      // The clock stands still: the interval alone would store the first only.
      EXPECT_TRUE(control.ReportProgress({.step = step}).ok());
      EXPECT_TRUE(control.ReportCheckpoint({.step = step}).ok());
      EXPECT_EQ(manager_->Get("j")->progress.step, step);
    }
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kSucceeded);
}

TEST_F(ManagerRunTest, ReportsBecomeEvents) {
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    EXPECT_TRUE(control.ReportEvaluation({.step = 3, .validation_loss = 0.5}).ok());
    EXPECT_TRUE(control.ReportCheckpoint({.step = 3, .size_bytes = 10}).ok());
    EXPECT_TRUE(control.Log("two examples were cut").ok());
    control.AddTrainingSeconds(2);
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kSucceeded);
  std::vector<JobEvent> events = Events("j");
  ASSERT_EQ(events.size(), 7);
  EXPECT_EQ(events[3].type, JobEvent::Type::kEvaluation);
  EXPECT_EQ(events[3].progress->validation_loss, 0.5);
  EXPECT_EQ(events[4].type, JobEvent::Type::kCheckpoint);
  EXPECT_EQ(events[4].checkpoint->size_bytes, 10);
  EXPECT_EQ(events[5].type, JobEvent::Type::kLog);
  EXPECT_EQ(events[5].message, "two examples were cut");
  EXPECT_EQ(manager_->Get("j")->training_seconds, 2);
}

TEST_F(ManagerRunTest, ErrorsFailTheJobWithTheirReason) {
  const Job job = Fail([](const Job&, JobControl&) {
    return MakeError(absl::StatusCode::kInternal, "NAN_LOSS", "The loss is not a number.\nLower the learning rate.");
  });
  EXPECT_EQ(job.error->reason, "NAN_LOSS");
  EXPECT_EQ(job.error->message, "The loss is not a number.\nLower the learning rate.");
  EXPECT_EQ(job.state_reason, "NAN_LOSS: The loss is not a number. Lower the learning rate.");
}

TEST_F(ManagerRunTest, ErrorsWithoutAReasonGetTheirCodes) {
  EXPECT_EQ(Fail([](const Job&, JobControl&) { return absl::DataLossError("x"); }).error->reason, "DATA_LOSS");
}

TEST_F(ManagerRunTest, ExceptionsFailTheJobAndNotTheServer) {
  const Job job = Fail([](const Job&, JobControl&) -> absl::StatusOr<JobOutcome> { throw std::runtime_error("boom"); });
  EXPECT_EQ(job.error->reason, "INTERNAL");
  EXPECT_EQ(job.error->message, "boom");
  Create("next");
  Await("next", JobState::kSucceeded);
}

TEST_F(ManagerRunTest, OutOfMachineMemoryFailsTheJob) {
  const Job job = Fail([](const Job&, JobControl&) -> absl::StatusOr<JobOutcome> { throw std::bad_alloc(); });
  EXPECT_EQ(job.error->reason, "OUT_OF_MEMORY");
}

TEST_F(ManagerRunTest, SuccessWithoutHavingRunIsAFailure) {
  const Job job = Fail([](const Job&, JobControl&) { return JobOutcome{JobOutcome::Kind::kSucceeded, "t"}; });
  EXPECT_EQ(job.error->reason, "INTERNAL");
  EXPECT_EQ(job.tuned_model, "");
}

TEST_F(ManagerRunTest, StoppingUnaskedIsAFailure) {
  EXPECT_EQ(Fail([](const Job&, JobControl&) { return JobOutcome{}; }).error->reason, "INTERNAL");
}

TEST_F(ManagerRunTest, AnErrorWhilePausingFailsTheJobAndWhileCancellingDoesNot) {
  for (const char* id : {"pausing", "cancelling"}) {
    runner_.SetScript(id, [](const Job& job, JobControl& control) -> absl::StatusOr<JobOutcome> {
      FakeRunner::RunUntilStopped(job, control).IgnoreError();
      return MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL", "The disk is full.");
    });
  }
  Start({.max_concurrent_jobs = 2});
  Create("pausing");
  Create("cancelling");
  Await("pausing", JobState::kRunning);
  Await("cancelling", JobState::kRunning);
  ASSERT_TRUE(manager_->Pause("pausing", "").ok());
  ASSERT_TRUE(manager_->Cancel("cancelling", "").ok());
  Await("pausing", JobState::kFailed);
  Await("cancelling", JobState::kCancelled);
  EXPECT_EQ(manager_->Get("pausing")->error->reason, "DISK_FULL");
}

TEST_F(ManagerRunTest, ShutdownHandsRunningJobsBackAndARestartRunsThem) {
  runner_.SetScript("j", [](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::RunUntilStopped(job, control);
    EXPECT_EQ(control.stop_request(), StopRequest::kShutdown);
    EXPECT_TRUE(control.ReportCheckpoint({.step = 1}).ok());
    return outcome;
  });
  Start();
  Create("j");
  Create("waiting");
  const int64_t running = Await("j", JobState::kRunning);
  std::vector<JobEvent> last;
  std::thread watcher([&] {
    int64_t after = running;
    while (true) {
      absl::StatusOr<JobManager::EventBatch> batch = manager_->WaitForEvents("j", after, absl::InfiniteFuture());
      if (!batch.ok()) {
        EXPECT_EQ(Reason(batch.status()), "SHUTTING_DOWN");
        return;
      }
      last = batch->events;
      after = last.back().sequence;
    }
  });
  manager_->Shutdown();
  watcher.join();
  manager_->Shutdown();
  ASSERT_FALSE(last.empty());
  EXPECT_EQ(last.back().state, JobState::kQueued);
  EXPECT_EQ(last.back().message, "server stopped");
  EXPECT_EQ(Reason(manager_->Create(Spec("late"), "").status()), "SHUTTING_DOWN");
  EXPECT_EQ(manager_->Get("waiting")->state, JobState::kQueued);

  runner_.SetScript("j", &FakeRunner::Succeed);
  Start();
  Await("waiting", JobState::kSucceeded);
  EXPECT_THAT(runner_.started(), ElementsAre("j", "j", "waiting"));
}

TEST_F(ManagerRunTest, ARestartAfterACrashRunsWhatRan) {
  Job job;
  job.spec = Spec("j");
  ASSERT_TRUE(store_->Create(job, "").ok());
  for (JobState state : {JobState::kPreparing, JobState::kRunning}) {
    ASSERT_TRUE(store_->Update("j", "", [&](Job& job) {
                        job.state = state;
                        return absl::OkStatus();
                      }).ok());
  }
  Start();
  Await("j", JobState::kSucceeded);
  std::vector<std::string> messages;
  for (const JobEvent& event : Events("j")) messages.push_back(event.message);
  EXPECT_THAT(messages, ::testing::Contains("server restarted"));
}

TEST_F(ManagerRunTest, AnEndThatCannotBeStoredIsTriedAgain) {
  absl::Notification ran;
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    // As a full disk does.
    EXPECT_TRUE(database_->Run("CREATE TRIGGER full BEFORE UPDATE ON jobs WHEN NEW.state = 5"
                               " BEGIN SELECT RAISE(ABORT, 'full'); END").ok());
    ran.Notify();
    return outcome;
  });
  Start();
  Create("j");
  ran.WaitForNotification();
  EXPECT_EQ(manager_->Get("j")->state, JobState::kRunning);
  ASSERT_TRUE(database_->Run("DROP TRIGGER full").ok());
  Await("j", JobState::kSucceeded);
}

TEST_F(ManagerRunTest, AnEndThatCannotBeStoredDoesNotHoldUpShutdown) {
  absl::Notification ran;
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    EXPECT_TRUE(database_->Run("CREATE TRIGGER full BEFORE UPDATE ON jobs WHEN NEW.state = 5"
                               " BEGIN SELECT RAISE(ABORT, 'full'); END").ok());
    ran.Notify();
    return outcome;
  });
  Start();
  Create("j");
  ran.WaitForNotification();
  manager_->Shutdown();
  EXPECT_EQ(manager_->Get("j")->state, JobState::kRunning);
  ASSERT_TRUE(database_->Run("DROP TRIGGER full").ok());
  runner_.SetScript("j", &FakeRunner::Succeed);
  Start();
  Await("j", JobState::kSucceeded);
}

TEST_F(ManagerRunTest, ManyJobsManyCommands) {
  Start({.max_concurrent_jobs = 4});
  std::vector<std::string> ids;
  for (int i = 0; i < 60; ++i) {
    ids.push_back("job-" + std::to_string(i));
    if (i % 2 == 0) runner_.SetScript(ids.back(), &FakeRunner::RunUntilStopped);
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < 60; i += 3) {
        Create(ids[i], i % 5);
        manager_->Pause(ids[i], "").status().IgnoreError();
        manager_->Resume(ids[i], "").status().IgnoreError();
        manager_->Cancel(ids[i], "").status().IgnoreError();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& id : ids) {
    int64_t after = 0;
    absl::StatusOr<JobManager::EventBatch> batch;
    do {
      batch = manager_->WaitForEvents(id, after, absl::InfiniteFuture());
      ASSERT_TRUE(batch.ok()) << batch.status();
      for (const JobEvent& event : batch->events) EXPECT_EQ(event.sequence, ++after);
    } while (!batch->ended);
    const JobState state = manager_->Get(id)->state;
    EXPECT_TRUE(state == JobState::kCancelled || state == JobState::kSucceeded) << JobStateName(state);
  }
}

}  // namespace
}  // namespace attune
