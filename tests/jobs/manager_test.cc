// What users ask of the manager: create, cancel, pause, resume, delete, watch.
#include "server/jobs/manager.h"

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/jobs/manager_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ManagerTest : public ManagerFixture {};

TEST_F(ManagerTest, AJobRunsAndSucceeds) {
  runner_.SetEstimate(JobEstimate{.data_report = {.train_examples = 3}, .resolved_hyperparameters = {.epochs = 2}});
  runner_.SetScript("j", [](const Job& job, JobControl& control) -> absl::StatusOr<JobOutcome> {
    EXPECT_EQ(job.state, JobState::kPreparing);
    EXPECT_EQ(job.resolved_hyperparameters->epochs, 2);
    EXPECT_TRUE(control.SetRunning({.epochs = 5}, {.train_examples = 9}).ok());
    EXPECT_EQ(control.stop_request(), StopRequest::kNone);
    return JobOutcome{JobOutcome::Kind::kSucceeded, "tuned"};
  });
  Start();
  Create("j");
  Await("j", JobState::kSucceeded);
  const Job job = *manager_->Get("j");
  EXPECT_EQ(job.tuned_model, "tuned");
  EXPECT_EQ(job.resolved_hyperparameters->epochs, 5);
  EXPECT_EQ(job.data_report->train_examples, 9);
  EXPECT_EQ(job.error, std::nullopt);
  std::vector<JobState> states;
  for (const JobEvent& event : Events("j")) states.push_back(event.state);
  EXPECT_THAT(states, ElementsAre(JobState::kQueued, JobState::kPreparing, JobState::kRunning, JobState::kSucceeded));
}

TEST_F(ManagerTest, BadSpecsAndEstimatesAreRefused) {
  Start();
  EXPECT_EQ(manager_->Create(Spec("Bad Id"), "").status().code(), absl::StatusCode::kInvalidArgument);
  runner_.SetEstimate(NotFound("datasets/data"));
  EXPECT_EQ(Reason(manager_->Create(Spec("j"), "").status()), "DATASET_NOT_FOUND");
  EXPECT_EQ(Reason(manager_->EstimateJob(Spec("j")).status()), "DATASET_NOT_FOUND");
  EXPECT_THAT(*manager_->List(10, INT64_MAX, {}), IsEmpty());
}

TEST_F(ManagerTest, AJobLargerThanTheDeviceIsRefused) {
  Start({.total_memory = [] { return 100; }, .free_memory = [] { return 40; }});
  runner_.SetEstimate(JobEstimate{.peak_memory_bytes = 101});
  absl::Status refused = manager_->Create(Spec("j"), "").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(refused), "JOB_TOO_LARGE");
  EXPECT_FALSE(manager_->EstimateJob(Spec("j"))->admissible);
  runner_.SetEstimate(JobEstimate{.peak_memory_bytes = 100});
  EXPECT_TRUE(manager_->Create(Spec("j"), "").ok());
  EXPECT_TRUE(manager_->EstimateJob(Spec("j"))->admissible);
  EXPECT_EQ(manager_->EstimateJob(Spec("j"))->available_memory_bytes, 40);
}

TEST_F(ManagerTest, ARepeatedRequestNeedsNoDataAnyMore) {
  Start();
  absl::StatusOr<Job> first = manager_->Create(Spec(""), "request");
  ASSERT_TRUE(first.ok()) << first.status();
  Await(first->spec.id, JobState::kSucceeded);
  runner_.SetEstimate(NotFound("datasets/data"));
  absl::StatusOr<Job> second = manager_->Create(Spec(""), "request");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->spec.id, first->spec.id);
  EXPECT_THAT(runner_.started(), ElementsAre(first->spec.id));
}

TEST_F(ManagerTest, CancelEndsARunningJob) {
  runner_.SetScript("j", &FakeRunner::RunUntilStopped);
  Start();
  Create("j");
  Await("j", JobState::kRunning);
  absl::StatusOr<Job> job = manager_->Cancel("j", "");
  ASSERT_TRUE(job.ok()) << job.status();
  Await("j", JobState::kCancelled);
  EXPECT_EQ(manager_->Get("j")->stop_requested, StopRequest::kNone);
  EXPECT_EQ(Reason(manager_->Cancel("j", "").status()), "JOB_ENDED");
  EXPECT_EQ(Reason(manager_->Pause("j", "").status()), "JOB_ENDED");
  EXPECT_EQ(Reason(manager_->Resume("j", "").status()), "JOB_NOT_PAUSED");
}

TEST_F(ManagerTest, QueuedAndPausedJobsStopAtOnce) {
  runner_.SetScript("busy", &FakeRunner::RunUntilStopped);
  Start();
  Create("busy");
  Await("busy", JobState::kRunning);
  Create("one");
  Create("two");
  EXPECT_EQ(manager_->Cancel("one", "")->state, JobState::kCancelled);
  EXPECT_EQ(manager_->Pause("two", "")->state, JobState::kPaused);
  EXPECT_EQ(manager_->Pause("two", "")->state, JobState::kPaused);
  EXPECT_EQ(manager_->Resume("two", "")->state, JobState::kQueued);
  EXPECT_EQ(manager_->Pause("two", "")->state, JobState::kPaused);
  EXPECT_EQ(manager_->Cancel("two", "")->state, JobState::kCancelled);
  EXPECT_THAT(runner_.started(), ElementsAre("busy"));
}

TEST_F(ManagerTest, APausedJobResumesFromItsCheckpoint) {
  std::atomic<int> run = 0;
  runner_.SetScript("j", [&](const Job& job, JobControl& control) -> absl::StatusOr<JobOutcome> {
    if (++run == 2) {
      EXPECT_EQ(control.checkpoints()->front().step, 5);
      EXPECT_EQ(job.progress.step, 5);
      return FakeRunner::Succeed(job, control);
    }
    absl::StatusOr<JobOutcome> outcome = FakeRunner::RunUntilStopped(job, control);
    EXPECT_EQ(control.stop_request(), StopRequest::kPause);
    EXPECT_TRUE(control.ReportProgress({.step = 5}).ok());
    EXPECT_TRUE(control.ReportCheckpoint({.step = 4}).ok());
    EXPECT_TRUE(control.ReportCheckpoint({.step = 5}).ok());
    EXPECT_TRUE(control.RemoveCheckpoint(4).ok());
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kRunning);
  EXPECT_EQ(manager_->Pause("j", "")->state_reason, "pausing");
  const int64_t paused = Await("j", JobState::kPaused);
  EXPECT_EQ(manager_->ListCheckpoints("j")->size(), 1);
  EXPECT_EQ(manager_->Resume("j", "")->state, JobState::kQueued);
  Await("j", JobState::kSucceeded, paused);
  EXPECT_THAT(runner_.started(), ElementsAre("j", "j"));
}

TEST_F(ManagerTest, CancelOverridesPauseButNotTheOtherWayRound) {
  absl::Notification may_stop;
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::RunUntilStopped(job, control);
    may_stop.WaitForNotification();
    EXPECT_EQ(control.stop_request(), StopRequest::kCancel);
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kRunning);
  ASSERT_TRUE(manager_->Pause("j", "").ok());
  ASSERT_TRUE(manager_->Cancel("j", "").ok());
  EXPECT_EQ(Reason(manager_->Pause("j", "").status()), "JOB_CANCELLING");
  EXPECT_EQ(Reason(manager_->Resume("j", "").status()), "JOB_NOT_PAUSED");
  may_stop.Notify();
  Await("j", JobState::kCancelled);
}

TEST_F(ManagerTest, StopRequestsReachAJobThatPrepares) {
  absl::Notification preparing;
  runner_.SetScript("j", [&](const Job&, JobControl& control) -> absl::StatusOr<JobOutcome> {
    preparing.Notify();
    while (control.stop_request() == StopRequest::kNone) std::this_thread::yield();
    return JobOutcome{};
  });
  Start();
  Create("j");
  preparing.WaitForNotification();
  ASSERT_TRUE(manager_->Pause("j", "").ok());
  Await("j", JobState::kPaused);
}

TEST_F(ManagerTest, AJobThatFinishesBeforeItSeesTheRequestHasSucceeded) {
  absl::Notification asked;
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    asked.WaitForNotification();
    return outcome;
  });
  Start();
  Create("j");
  Await("j", JobState::kRunning);
  ASSERT_TRUE(manager_->Cancel("j", "").ok());
  asked.Notify();
  Await("j", JobState::kSucceeded);
}

TEST_F(ManagerTest, StaleEtagsAreRefused) {
  runner_.SetScript("j", &FakeRunner::RunUntilStopped);
  Start();
  const std::string stale = Create("j").etag;
  Await("j", JobState::kRunning);
  for (auto command : {&JobManager::Cancel, &JobManager::Pause, &JobManager::Resume}) {
    EXPECT_EQ(Reason((manager_.get()->*command)("j", stale).status()), "ETAG_MISMATCH");
  }
  ASSERT_TRUE(manager_->Cancel("j", manager_->Get("j")->etag).ok());
  Await("j", JobState::kCancelled);
  EXPECT_EQ(Reason(manager_->Delete("j", stale)), "ETAG_MISMATCH");
  EXPECT_TRUE(manager_->Delete("j", manager_->Get("j")->etag).ok());
}

TEST_F(ManagerTest, DeleteRemovesFilesThenTheJob) {
  std::vector<std::string> deleted;
  absl::Status answer = absl::InternalError("disk");
  JobManager::Options options;
  options.delete_files = [&](const Job& job) {
    deleted.push_back(job.spec.id);
    return answer;
  };
  Start(std::move(options));
  runner_.SetScript("j", &FakeRunner::RunUntilStopped);
  Create("j");
  Await("j", JobState::kRunning);
  EXPECT_EQ(Reason(manager_->Delete("j", "")), "JOB_NOT_ENDED");
  EXPECT_THAT(deleted, IsEmpty());
  ASSERT_TRUE(manager_->Cancel("j", "").ok());
  Await("j", JobState::kCancelled);

  EXPECT_FALSE(manager_->Delete("j", "").ok());
  EXPECT_TRUE(manager_->Get("j").ok());
  answer = absl::OkStatus();
  EXPECT_TRUE(manager_->Delete("j", "").ok());
  EXPECT_THAT(deleted, ElementsAre("j", "j"));
  EXPECT_TRUE(absl::IsNotFound(manager_->Get("j").status()));
  EXPECT_TRUE(absl::IsNotFound(manager_->Delete("j", "")));
}

TEST_F(ManagerTest, ListenersHearEveryTransition) {
  absl::Mutex mutex;
  std::vector<std::pair<JobState, JobState>> heard;
  JobManager::Options options;
  options.on_transition = [&](const Job& job, JobState from, JobState to) {
    absl::MutexLock lock(&mutex);
    EXPECT_EQ(job.state, to);
    heard.push_back({from, to});
  };
  Start(std::move(options));
  Create("j");
  Await("j", JobState::kSucceeded);
  manager_->Shutdown();
  absl::MutexLock lock(&mutex);
  // The start may be heard before the creation.
  EXPECT_THAT(heard, ::testing::UnorderedElementsAre(std::pair(JobState::kQueued, JobState::kQueued),
                                                     std::pair(JobState::kQueued, JobState::kPreparing),
                                                     std::pair(JobState::kPreparing, JobState::kRunning),
                                                     std::pair(JobState::kRunning, JobState::kSucceeded)));
}

TEST_F(ManagerTest, WatchersGetEveryEventOnceAndThenTheEnd) {
  absl::Notification go;
  runner_.SetScript("j", [&](const Job& job, JobControl& control) {
    absl::StatusOr<JobOutcome> outcome = FakeRunner::Succeed(job, control);
    go.WaitForNotification();
    for (int i = 0; i < 50; ++i) EXPECT_TRUE(control.Log("line").ok());
    return outcome;
  });
  Start();
  Create("j");
  std::vector<int64_t> sequences;
  std::thread watcher([&] {
    int64_t last = 0;
    while (true) {
      absl::StatusOr<JobManager::EventBatch> batch = manager_->WaitForEvents("j", last, absl::InfiniteFuture());
      ASSERT_TRUE(batch.ok()) << batch.status();
      for (const JobEvent& event : batch->events) sequences.push_back(last = event.sequence);
      if (batch->ended) return;
    }
  });
  go.Notify();
  watcher.join();
  ASSERT_EQ(sequences.size(), 54);
  for (int i = 0; i < 54; ++i) EXPECT_EQ(sequences[i], i + 1);
  // One that comes back later resumes where it was.
  EXPECT_EQ(manager_->WaitForEvents("j", 52, absl::InfiniteFuture())->events.size(), 2);
  absl::StatusOr<JobManager::EventBatch> nothing = manager_->WaitForEvents("j", 54, absl::InfiniteFuture());
  ASSERT_TRUE(nothing.ok());
  EXPECT_TRUE(nothing->ended);
  EXPECT_THAT(nothing->events, IsEmpty());
}

TEST_F(ManagerTest, WatchersLeaveAtTheirDeadlineOrWhenCancelled) {
  runner_.SetScript("j", &FakeRunner::RunUntilStopped);
  Start();
  Create("j");
  const int64_t last = Await("j", JobState::kRunning);
  absl::StatusOr<JobManager::EventBatch> late = manager_->WaitForEvents("j", last, absl::Now());
  ASSERT_TRUE(late.ok());
  EXPECT_THAT(late->events, IsEmpty());
  EXPECT_FALSE(late->ended);

  std::atomic<bool> left = false;
  absl::Notification asked;
  std::thread watcher([&] {
    auto cancelled = [&] {
      if (!asked.HasBeenNotified()) asked.Notify();
      return left.load();
    };
    EXPECT_TRUE(absl::IsCancelled(manager_->WaitForEvents("j", last, absl::InfiniteFuture(), cancelled).status()));
  });
  asked.WaitForNotification();
  left = true;
  manager_->WakeWatchers();
  watcher.join();
  EXPECT_TRUE(absl::IsNotFound(manager_->WaitForEvents("x", 0, absl::InfiniteFuture()).status()));
}

}  // namespace
}  // namespace attune
