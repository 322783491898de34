#include "server/jobs/job_store.h"

#include <filesystem>

#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string Reason(const absl::Status& status) { return GetErrorDetails(status).reason; }

class JobStoreTest : public ::testing::Test {
 protected:
  JobStoreTest() { Reopen(":memory:"); }

  void Reopen(const std::string& path) {
    store_.reset();
    database_ = *Database::Open(path);
    store_ = *JobStore::Open(database_.get(), &clock_);
  }

  static Job Wanted(std::string id, std::string dataset = "data", std::string tenant = "") {
    Job job;
    job.spec.id = std::move(id);
    job.spec.base_model = "base";
    job.spec.dataset = std::move(dataset);
    job.spec.tenant = std::move(tenant);
    job.spec.method = LoraSpec{.rank = 8};
    job.memory_bytes = 77;
    return job;
  }

  Job Make(std::string id, std::string dataset = "data", std::string tenant = "") {
    absl::StatusOr<Job> job = store_->Create(Wanted(std::move(id), std::move(dataset), std::move(tenant)), "");
    EXPECT_TRUE(job.ok()) << job.status();
    return *job;
  }

  absl::StatusOr<Job> Move(absl::string_view id, JobState to, std::string reason = "test") {
    return store_->Update(id, "", [&](Job& job) {
      job.state = to;
      job.state_reason = reason;
      return absl::OkStatus();
    });
  }

  // Through legal states only.
  void MoveToEnd(absl::string_view id) {
    ASSERT_TRUE(Move(id, JobState::kPreparing).ok());
    ASSERT_TRUE(Move(id, JobState::kRunning).ok());
    ASSERT_TRUE(Move(id, JobState::kSucceeded).ok());
  }

  std::vector<JobEvent> AllEvents(absl::string_view id) { return store_->Events(id, 0, 1000)->events; }

  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> store_;
};

TEST_F(JobStoreTest, CreateQueuesWithDefaultsAndOneEvent) {
  bool created = false;
  absl::StatusOr<Job> job = store_->Create(Wanted(""), "", &created);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_TRUE(created);
  EXPECT_FALSE(job->spec.id.empty());
  EXPECT_EQ(job->spec.tenant, "default");
  EXPECT_EQ(job->spec.tuned_model_id, "base-lora-" + job->spec.id);
  EXPECT_EQ(job->state, JobState::kQueued);
  EXPECT_EQ(job->memory_bytes, 77);
  EXPECT_EQ(job->create_time, clock_.Now());
  EXPECT_FALSE(job->etag.empty());
  EXPECT_EQ(*store_->Get(job->spec.id), *job);
  std::vector<JobEvent> events = AllEvents(job->spec.id);
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0].sequence, 1);
  EXPECT_EQ(events[0].type, JobEvent::Type::kStateChanged);
  EXPECT_EQ(events[0].state, JobState::kQueued);
}

TEST_F(JobStoreTest, LongJobIdsGiveValidModelIds) {
  const std::string id(63, 'j');
  EXPECT_EQ(Make(id).spec.tuned_model_id, id);
}

TEST_F(JobStoreTest, IdsAreUnique) {
  Make("one");
  Job again = Wanted("one");
  again.spec.tuned_model_id = "other";
  EXPECT_EQ(Reason(store_->Create(again, "").status()), "JOB_EXISTS");
}

TEST_F(JobStoreTest, UnfinishedJobsDoNotShareATunedModel) {
  Job first = Wanted("one");
  first.spec.tuned_model_id = "mine";
  ASSERT_TRUE(store_->Create(first, "").ok());
  Job second = Wanted("two");
  second.spec.tuned_model_id = "mine";
  absl::Status refused = store_->Create(second, "").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Reason(refused), "TUNED_MODEL_ID_TAKEN");
  ASSERT_TRUE(Move("one", JobState::kCancelled).ok());
  EXPECT_TRUE(store_->Create(second, "").ok());
}

TEST_F(JobStoreTest, RequestIdsMakeCreateIdempotent) {
  absl::StatusOr<Job> first = store_->Create(Wanted(""), "req-1");
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(Move(first->spec.id, JobState::kPreparing).ok());
  bool created = true;
  absl::StatusOr<Job> second = store_->Create(Wanted(""), "req-1", &created);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(created);
  EXPECT_EQ(second->spec.id, first->spec.id);
  EXPECT_EQ(second->state, JobState::kPreparing);
  EXPECT_EQ(store_->FindRequest(Wanted("").spec, "req-1")->spec.id, first->spec.id);
  EXPECT_EQ(store_->List(10, INT64_MAX, {})->size(), 1);

  absl::Status reused = store_->Create(Wanted("", "other-data"), "req-1").status();
  EXPECT_EQ(reused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Reason(reused), "REQUEST_ID_REUSED");
  EXPECT_EQ(Reason(store_->FindRequest(Wanted("", "other-data").spec, "req-1").status()), "REQUEST_ID_REUSED");
  EXPECT_TRUE(absl::IsNotFound(store_->FindRequest(Wanted("").spec, "req-2").status()));
  EXPECT_EQ(store_->Create(Wanted(""), std::string(129, 'r')).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(JobStoreTest, NoRequestIdIsNeverARepeat) {
  Make("");
  Make("");
  EXPECT_TRUE(absl::IsNotFound(store_->FindRequest(Wanted("").spec, "").status()));
  EXPECT_EQ(store_->List(10, INT64_MAX, {})->size(), 2);
}

TEST_F(JobStoreTest, UnknownJobsAreNotFound) {
  EXPECT_EQ(Reason(store_->Get("x").status()), "TUNING_JOB_NOT_FOUND");
  EXPECT_EQ(Reason(Move("x", JobState::kPaused).status()), "TUNING_JOB_NOT_FOUND");
  EXPECT_EQ(Reason(store_->Delete("x", "")), "TUNING_JOB_NOT_FOUND");
  EXPECT_EQ(Reason(store_->AppendEvent("x", {}).status()), "TUNING_JOB_NOT_FOUND");
  EXPECT_EQ(Reason(store_->Events("x", 0, 1).status()), "TUNING_JOB_NOT_FOUND");
  EXPECT_EQ(Reason(store_->AddCheckpoint("x", {})), "TUNING_JOB_NOT_FOUND");
  EXPECT_EQ(Reason(store_->ListCheckpoints("x").status()), "TUNING_JOB_NOT_FOUND");
}

TEST_F(JobStoreTest, ListsNewestFirstInPagesWithFilters) {
  for (const char* id : {"a", "b", "c", "d"}) Make(id, "data", id[0] < 'c' ? "left" : "right");
  ASSERT_TRUE(Move("b", JobState::kPaused).ok());
  auto ids = [&](int limit, int64_t before, JobStore::Filter filter) {
    std::vector<std::string> ids;
    const std::vector<Job> jobs = *store_->List(limit, before, filter);
    for (const Job& job : jobs) ids.push_back(job.spec.id);
    return ids;
  };
  EXPECT_THAT(ids(10, INT64_MAX, {}), ElementsAre("d", "c", "b", "a"));
  EXPECT_THAT(ids(2, INT64_MAX, {}), ElementsAre("d", "c"));
  EXPECT_THAT(ids(2, store_->Get("c")->position, {}), ElementsAre("b", "a"));
  EXPECT_THAT(ids(10, INT64_MAX, {{JobState::kPaused}, ""}), ElementsAre("b"));
  EXPECT_THAT(ids(10, INT64_MAX, {{JobState::kPaused, JobState::kQueued}, "left"}), ElementsAre("b", "a"));
  EXPECT_THAT(ids(10, INT64_MAX, {{}, "nobody"}), IsEmpty());
}

TEST_F(JobStoreTest, UpdateSetsTimesEtagAndEvent) {
  const Job queued = Make("j");
  clock_.Advance(absl::Seconds(5));
  absl::StatusOr<Job> preparing = Move("j", JobState::kPreparing, "why");
  ASSERT_TRUE(preparing.ok());
  EXPECT_EQ(preparing->start_time, clock_.Now());
  EXPECT_NE(preparing->etag, queued.etag);
  EXPECT_EQ(AllEvents("j").back().message, "why");
  EXPECT_EQ(AllEvents("j").back().state, JobState::kPreparing);

  clock_.Advance(absl::Seconds(5));
  absl::StatusOr<Job> requeued = Move("j", JobState::kQueued);
  EXPECT_EQ(requeued->queue_time, clock_.Now());
  clock_.Advance(absl::Seconds(5));
  MoveToEnd("j");
  const Job ended = *store_->Get("j");
  EXPECT_EQ(ended.start_time, preparing->start_time);  // the first time
  EXPECT_EQ(ended.end_time, clock_.Now());
}

TEST_F(JobStoreTest, OnlyLegalTransitions) {
  Make("j");
  absl::Status refused = Move("j", JobState::kSucceeded).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Reason(refused), "ILLEGAL_TRANSITION");
  EXPECT_EQ(store_->Get("j")->state, JobState::kQueued);
  EXPECT_EQ(AllEvents("j").size(), 1);
}

TEST_F(JobStoreTest, AFailedOrEmptyChangeWritesNothing) {
  const Job job = Make("j");
  EXPECT_FALSE(store_->Update("j", "", [](Job& job) {
                         job.state = JobState::kPaused;
                         return absl::InternalError("no");
                       }).ok());
  EXPECT_EQ(*store_->Get("j"), job);
  ASSERT_TRUE(store_->Update("j", "", [](Job&) { return absl::OkStatus(); }).ok());
  EXPECT_EQ(*store_->Get("j"), job);
}

TEST_F(JobStoreTest, StaleEtagsAreRefused) {
  const Job job = Make("j");
  auto pause = [](Job& job) {
    job.state = JobState::kPaused;
    return absl::OkStatus();
  };
  Job before;
  ASSERT_TRUE(store_->Update("j", job.etag, pause, &before).ok());
  EXPECT_EQ(before, job);
  absl::Status refused = store_->Update("j", job.etag, pause).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Reason(refused), "ETAG_MISMATCH");
  ASSERT_TRUE(Move("j", JobState::kCancelled).ok());
  EXPECT_EQ(Reason(store_->Delete("j", job.etag)), "ETAG_MISMATCH");
}

TEST_F(JobStoreTest, StopRequestsEndWithTheRun) {
  Make("j");
  ASSERT_TRUE(Move("j", JobState::kPreparing).ok());
  auto ask = [](Job& job) {
    job.stop_requested = StopRequest::kPause;
    return absl::OkStatus();
  };
  ASSERT_TRUE(store_->Update("j", "", ask).ok());
  EXPECT_EQ(Move("j", JobState::kRunning)->stop_requested, StopRequest::kPause);
  EXPECT_EQ(Move("j", JobState::kPaused)->stop_requested, StopRequest::kNone);
}

TEST_F(JobStoreTest, OnlyEndedJobsAreDeleted) {
  Make("j");
  EXPECT_EQ(Reason(store_->Delete("j", "")), "JOB_NOT_ENDED");
  MoveToEnd("j");
  ASSERT_TRUE(store_->AddCheckpoint("j", {.step = 1}).ok());
  ASSERT_TRUE(store_->Delete("j", "").ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Get("j").status()));
  // A new job of the same name inherits nothing.
  Make("j");
  EXPECT_EQ(AllEvents("j").size(), 1);
  EXPECT_THAT(*store_->ListCheckpoints("j"), IsEmpty());
}

TEST_F(JobStoreTest, EventsAreNumberedWithoutGaps) {
  const Job job = Make("j");
  Make("other");
  JobEvent progress;
  progress.type = JobEvent::Type::kProgress;
  progress.progress = JobProgress{.step = 3, .train_loss = 0.5};
  EXPECT_EQ(*store_->AppendEvent("j", progress, {.training_seconds = 1.5}), 2);
  JobEvent log;
  log.type = JobEvent::Type::kLog;
  log.message = "hello";
  EXPECT_EQ(*store_->AppendEvent("j", log), 3);
  EXPECT_EQ(*store_->AppendEvent("other", log), 2);
  EXPECT_EQ(*store_->AppendEvent("j", progress, {.training_seconds = 1}), 4);

  std::vector<JobEvent> events = AllEvents("j");
  ASSERT_EQ(events.size(), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(events[i].sequence, i + 1);
  EXPECT_EQ(events[1].progress, progress.progress);
  EXPECT_EQ(events[2].message, "hello");
  const Job now = *store_->Get("j");
  EXPECT_EQ(now.progress, *progress.progress);
  EXPECT_EQ(now.training_seconds, 2.5);
  EXPECT_EQ(now.etag, job.etag);
}

TEST_F(JobStoreTest, EnergyIsUnsetUntilADeviceTells) {
  Make("j");
  JobEvent progress;
  progress.type = JobEvent::Type::kProgress;
  progress.progress = JobProgress{.step = 1};
  ASSERT_TRUE(store_->AppendEvent("j", progress, {.training_seconds = 1}).ok());
  EXPECT_EQ(store_->Get("j")->energy_joules, std::nullopt);
  ASSERT_TRUE(store_->AppendEvent("j", progress, {1, 250}).ok());
  ASSERT_TRUE(store_->AppendEvent("j", progress, {1, 0.5}).ok());
  EXPECT_EQ(store_->Get("j")->energy_joules, 250.5);
  ASSERT_TRUE(store_->Update("j", "", [](Job& job) {
    job.Add({1, 50});
    return absl::OkStatus();
  }).ok());
  EXPECT_EQ(store_->Get("j")->energy_joules, 300.5);
  EXPECT_EQ(store_->Get("j")->training_seconds, 4);
}

TEST_F(JobStoreTest, ADatabaseOfBeforeEnergyIsTakenOver) {
  Make("old");
  // As the column was not there.
  ASSERT_TRUE(database_->Run("ALTER TABLE jobs DROP COLUMN energy_joules").ok());
  store_ = *JobStore::Open(database_.get(), &clock_);
  EXPECT_EQ(store_->Get("old")->energy_joules, std::nullopt);
  ASSERT_TRUE(store_->AppendEvent("old", {}, {1, 20}).ok());
  store_ = *JobStore::Open(database_.get(), &clock_);  // and once more, with the column
  EXPECT_EQ(store_->Get("old")->energy_joules, 20);
}

TEST_F(JobStoreTest, EventPagesSayWhenTheyAreComplete) {
  Make("j");
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(store_->AppendEvent("j", {}).ok());
  JobStore::EventPage page = *store_->Events("j", 1, 2);
  ASSERT_EQ(page.events.size(), 2);
  EXPECT_EQ(page.events[0].sequence, 2);
  EXPECT_FALSE(page.complete);
  page = *store_->Events("j", 3, 2);
  EXPECT_EQ(page.events.size(), 1);
  EXPECT_TRUE(page.complete);
  page = *store_->Events("j", 4, 2);
  EXPECT_THAT(page.events, IsEmpty());
  EXPECT_TRUE(page.complete);
}

TEST_F(JobStoreTest, CheckpointsNewestFirstOneBest) {
  Make("j");
  ASSERT_TRUE(store_->AddCheckpoint("j", {.step = 10, .validation_loss = 0.5, .best = true}).ok());
  clock_.Advance(absl::Seconds(1));
  ASSERT_TRUE(store_->AddCheckpoint("j", {.step = 20, .validation_loss = 0.4, .size_bytes = 9, .best = true}).ok());
  ASSERT_TRUE(store_->AddCheckpoint("j", {.step = 30, .validation_loss = 0.6}).ok());
  std::vector<Checkpoint> checkpoints = *store_->ListCheckpoints("j");
  ASSERT_EQ(checkpoints.size(), 3);
  EXPECT_EQ(checkpoints[0].step, 30);
  EXPECT_FALSE(checkpoints[0].best);
  EXPECT_TRUE(checkpoints[1].best);
  EXPECT_EQ(checkpoints[1].size_bytes, 9);
  EXPECT_EQ(checkpoints[1].create_time, clock_.Now());
  EXPECT_FALSE(checkpoints[2].best);
  EXPECT_EQ(AllEvents("j").back().type, JobEvent::Type::kCheckpoint);
  EXPECT_EQ(AllEvents("j").back().checkpoint, checkpoints[0]);

  ASSERT_TRUE(store_->RemoveCheckpoint("j", 20).ok());
  ASSERT_TRUE(store_->RemoveCheckpoint("j", 20).ok());
  EXPECT_EQ(store_->ListCheckpoints("j")->size(), 2);
}

TEST_F(JobStoreTest, UnfinishedJobsUseTheirDataAndModel) {
  Make("j", "data-1");
  Job other = Wanted("k", "data-2");
  other.spec.validation_dataset = "data-1";
  ASSERT_TRUE(store_->Create(other, "").ok());
  EXPECT_THAT(*store_->ActiveUsersOfDataset("data-1"), ElementsAre("j", "k"));
  EXPECT_THAT(*store_->ActiveUsersOfModel("base"), ElementsAre("j", "k"));
  ASSERT_TRUE(Move("j", JobState::kPaused).ok());
  EXPECT_THAT(*store_->ActiveUsersOfDataset("data-1"), ElementsAre("j", "k"));
  ASSERT_TRUE(Move("j", JobState::kCancelled).ok());
  EXPECT_THAT(*store_->ActiveUsersOfDataset("data-1"), ElementsAre("k"));
  EXPECT_THAT(*store_->ActiveUsersOfDataset("data-3"), IsEmpty());
}

TEST_F(JobStoreTest, StartsAndTeachersAreInUse) {
  Job start = Wanted("start", "data"), teacher = Wanted("teacher", "data"), checkpoint = Wanted("checkpoint", "data");
  start.spec.start_from = StartPoint{.model = "earlier"};
  teacher.spec.distillation = DistillationSpec{.teacher = "larger"};
  checkpoint.spec.start_from = StartPoint{.job = "done", .step = 3};
  for (const Job& job : {start, teacher, checkpoint}) ASSERT_TRUE(store_->Create(job, "").ok());
  EXPECT_THAT(*store_->ActiveUsersOfModel("earlier"), ElementsAre("start"));
  EXPECT_THAT(*store_->ActiveUsersOfModel("larger"), ElementsAre("teacher"));
  EXPECT_THAT(*store_->ActiveUsersOfCheckpoints("done"), ElementsAre("checkpoint"));
  EXPECT_THAT(*store_->ActiveUsersOfCheckpoints("start"), IsEmpty());
  ASSERT_TRUE(Move("start", JobState::kCancelled).ok());
  EXPECT_THAT(*store_->ActiveUsersOfModel("earlier"), IsEmpty());
}

TEST_F(JobStoreTest, TenantSecondsForgetWhatEndedLongAgo) {
  Make("old", "data", "a");
  Make("new", "data", "a");
  Make("b", "data", "b");
  for (const char* id : {"old", "new", "b"}) ASSERT_TRUE(store_->AppendEvent(id, {}, {.training_seconds = 10}).ok());
  MoveToEnd("old");
  clock_.Advance(absl::Hours(1));
  MoveToEnd("new");
  EXPECT_EQ(*store_->TenantSeconds(clock_.Now() - absl::Hours(2)),
            (std::map<std::string, double>{{"a", 20}, {"b", 10}}));
  EXPECT_EQ(*store_->TenantSeconds(clock_.Now() - absl::Minutes(1)),
            (std::map<std::string, double>{{"a", 10}, {"b", 10}}));
}

TEST_F(JobStoreTest, RecoverPutsJobsWhereTheyBelong) {
  for (const char* id : {"queued", "preparing", "running", "pausing", "cancelling", "paused", "ended"}) Make(id);
  for (const char* id : {"preparing", "running", "pausing", "cancelling"}) {
    ASSERT_TRUE(Move(id, JobState::kPreparing).ok());
  }
  for (const char* id : {"running", "pausing", "cancelling"}) ASSERT_TRUE(Move(id, JobState::kRunning).ok());
  auto ask = [&](absl::string_view id, StopRequest request) {
    ASSERT_TRUE(store_->Update(id, "", [&](Job& job) {
                          job.stop_requested = request;
                          return absl::OkStatus();
                        }).ok());
  };
  ask("pausing", StopRequest::kPause);
  ask("cancelling", StopRequest::kCancel);
  ASSERT_TRUE(Move("paused", JobState::kPaused).ok());
  MoveToEnd("ended");

  absl::StatusOr<std::vector<JobStore::Recovered>> recovered = store_->Recover();
  ASSERT_TRUE(recovered.ok()) << recovered.status();
  ASSERT_EQ(recovered->size(), 4);
  EXPECT_EQ((*recovered)[0].from, JobState::kPreparing);
  EXPECT_EQ((*recovered)[1].from, JobState::kRunning);
  EXPECT_EQ((*recovered)[1].job.state, JobState::kQueued);
  EXPECT_EQ((*recovered)[1].job.state_reason, "server restarted");
  EXPECT_EQ(store_->Get("queued")->state, JobState::kQueued);
  EXPECT_EQ(store_->Get("preparing")->state, JobState::kQueued);
  EXPECT_EQ(store_->Get("pausing")->state, JobState::kPaused);
  EXPECT_EQ(store_->Get("cancelling")->state, JobState::kCancelled);
  EXPECT_EQ(store_->Get("paused")->state, JobState::kPaused);
  EXPECT_EQ(store_->Get("ended")->state, JobState::kSucceeded);
  EXPECT_EQ(AllEvents("running").back().message, "server restarted");
  EXPECT_THAT(*store_->Recover(), IsEmpty());
}

TEST_F(JobStoreTest, EverythingSurvivesReopening) {
  const std::string path = ::testing::TempDir() + "/job_store_test.db";
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path + suffix);
  Reopen(path);
  Make("j");
  ASSERT_TRUE(store_->AddCheckpoint("j", {.step = 4}).ok());
  ASSERT_TRUE(Move("j", JobState::kPreparing).ok());
  const Job job = *store_->Get("j");
  const std::vector<JobEvent> events = AllEvents("j");
  Reopen(path);
  EXPECT_EQ(*store_->Get("j"), job);
  EXPECT_EQ(AllEvents("j"), events);
  EXPECT_EQ(store_->ListCheckpoints("j")->front().step, 4);
  Reopen(":memory:");
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path + suffix);
}

TEST_F(JobStoreTest, ACorruptRecordIsAnErrorNotACrash) {
  Make("j");
  ASSERT_TRUE(database_->Run("UPDATE jobs SET spec = '{' WHERE id = 'j'").ok());
  EXPECT_EQ(store_->Get("j").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->List(10, INT64_MAX, {}).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace attune
