#include "server/rpc/tuning_service.h"

#include <functional>

#include "absl/time/clock.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

class TuningServiceTest : public RpcFixture {
 protected:
  TuningServiceTest()
      : service_({jobs_.get(), job_store_.get(), datasets_.get(), models_.get(), &watcher_, &metrics_}),
        stub_(v1::TuningService::NewStub(Serve(&service_))) {
    AddModel("base");
    AddDataset("data", "{\"prompt\":\"a\",\"completion\":\"b\"}\n");
  }

  static v1::CreateTuningJobRequest Request(const std::string& id = "") {
    v1::CreateTuningJobRequest request;
    request.set_tuning_job_id(id);
    request.mutable_tuning_job()->set_base_model("models/base");
    request.mutable_tuning_job()->set_dataset("datasets/data");
    request.mutable_tuning_job()->mutable_lora();
    return request;
  }
  grpc::Status Create(const v1::CreateTuningJobRequest& request, v1::TuningJob* job) {
    grpc::ClientContext context;
    return stub_->CreateTuningJob(&context, request, job);
  }
  v1::TuningJob MustCreate(const v1::CreateTuningJobRequest& request) {
    v1::TuningJob job;
    grpc::Status status = Create(request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  v1::TuningJob Get(const std::string& name) {
    v1::GetTuningJobRequest request;
    request.set_name(name);
    v1::TuningJob job;
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->GetTuningJob(&context, request, &job).ok());
    return job;
  }
  // Reads a job's events to their end.
  std::vector<v1::JobEvent> Watch(const std::string& name, int64_t after, grpc::Status* status) {
    v1::WatchTuningJobRequest request;
    request.set_name(name);
    request.set_after_sequence(after);
    grpc::ClientContext context;
    auto reader = stub_->WatchTuningJob(&context, request);
    std::vector<v1::JobEvent> events;
    for (v1::JobEvent event; reader->Read(&event);) events.push_back(event);
    *status = reader->Finish();
    return events;
  }

  TuningService service_;
  std::unique_ptr<v1::TuningService::Stub> stub_;
};

TEST_F(TuningServiceTest, CreatesAndReturnsAJob) {
  v1::CreateTuningJobRequest request = Request("my-job");
  v1::TuningJob* wanted = request.mutable_tuning_job();
  wanted->set_display_name("Mine");
  wanted->set_priority(3);
  wanted->set_tuned_model_id("models/mine");
  wanted->mutable_lora()->set_rank(4);
  wanted->mutable_hyperparameters()->set_seed(7);
  wanted->mutable_data()->set_completion_template(" {{label}}");
  (*wanted->mutable_labels())["k"] = "v";
  v1::TuningJob job = MustCreate(request);
  EXPECT_EQ(job.name(), "tuningJobs/my-job");
  EXPECT_EQ(job.base_model(), "models/base");
  EXPECT_EQ(job.dataset(), "datasets/data");
  EXPECT_EQ(job.tuned_model_id(), "mine");
  EXPECT_EQ(job.lora().rank(), 4);
  EXPECT_FALSE(job.lora().has_dropout());
  EXPECT_EQ(job.hyperparameters().seed(), 7);
  EXPECT_EQ(job.data().completion_template(), " {{label}}");
  EXPECT_EQ(job.tenant(), "default");
  EXPECT_EQ(job.labels().at("k"), "v");
  EXPECT_EQ(job.create_time().seconds(), absl::ToUnixSeconds(clock_.Now()));
  EXPECT_FALSE(job.etag().empty());
  EXPECT_EQ(Get(job.name()).display_name(), "Mine");
}

TEST_F(TuningServiceTest, NamesTheWrongField) {
  using Change = std::function<void(v1::CreateTuningJobRequest&)>;
  const std::vector<std::pair<std::string, Change>> cases = {
      {"tuning_job", [](auto& r) { r.clear_tuning_job(); }},
      {"tuning_job_id", [](auto& r) { r.set_tuning_job_id("Upper"); }},
      {"request_id", [](auto& r) { r.set_request_id(std::string(129, 'x')); }},
      {"tuning_job.base_model", [](auto& r) { r.mutable_tuning_job()->set_base_model("base"); }},
      {"tuning_job.dataset", [](auto& r) { r.mutable_tuning_job()->clear_dataset(); }},
      {"tuning_job.validation_dataset", [](auto& r) { r.mutable_tuning_job()->set_validation_dataset("x"); }},
      {"tuning_job.method", [](auto& r) { r.mutable_tuning_job()->clear_lora(); }},
      {"tuning_job.lora.rank", [](auto& r) { r.mutable_tuning_job()->mutable_lora()->set_rank(513); }},
      {"tuning_job.lora.target_modules",
       [](auto& r) { r.mutable_tuning_job()->mutable_lora()->add_target_modules(v1::TARGET_MODULE_UNSPECIFIED); }},
      {"tuning_job.partial", [](auto& r) { r.mutable_tuning_job()->mutable_partial(); }},
      {"tuning_job.soft_prompt.num_virtual_tokens",
       [](auto& r) { r.mutable_tuning_job()->mutable_soft_prompt()->set_num_virtual_tokens(-1); }},
      {"tuning_job.hyperparameters.warmup_ratio",
       [](auto& r) { r.mutable_tuning_job()->mutable_hyperparameters()->set_warmup_ratio(2); }},
      {"tuning_job.data.prompt_template",
       [](auto& r) { r.mutable_tuning_job()->mutable_data()->set_prompt_template("{{x"); }},
      {"tuning_job.data.max_sequence_tokens",
       [](auto& r) { r.mutable_tuning_job()->mutable_data()->set_max_sequence_tokens(7); }},
      {"tuning_job.priority", [](auto& r) { r.mutable_tuning_job()->set_priority(101); }},
      {"tuning_job.tenant", [](auto& r) { r.mutable_tuning_job()->set_tenant("A B"); }},
  };
  for (const auto& [field, change] : cases) {
    v1::CreateTuningJobRequest request = Request();
    change(request);
    v1::TuningJob job;
    grpc::Status status = Create(request, &job);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_EQ(Field(status), field);
  }
}

TEST_F(TuningServiceTest, WhatAJobNamesMustExistAndBeTunable) {
  AddModel("adapter", ModelKind::kLora, "base");
  v1::TuningJob job;
  v1::CreateTuningJobRequest request = Request();
  request.mutable_tuning_job()->set_base_model("models/adapter");
  grpc::Status status = Create(request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Reason(status), "BASE_IS_ADAPTER");
  request.mutable_tuning_job()->set_base_model("models/none");
  EXPECT_EQ(Reason(Create(request, &job)), "MODEL_NOT_FOUND");
  request = Request();
  request.mutable_tuning_job()->set_dataset("datasets/none");
  EXPECT_EQ(Reason(Create(request, &job)), "DATASET_NOT_FOUND");
  request = Request();
  request.mutable_tuning_job()->set_validation_dataset("datasets/none");
  EXPECT_EQ(Reason(Create(request, &job)), "DATASET_NOT_FOUND");
  request = Request();
  request.mutable_tuning_job()->set_tuned_model_id("base");
  EXPECT_EQ(Reason(Create(request, &job)), "MODEL_EXISTS");
}

TEST_F(TuningServiceTest, ARepeatedRequestReturnsTheFirstJobWhateverWasDeleted) {
  v1::CreateTuningJobRequest request = Request();
  request.set_request_id("r1");
  v1::TuningJob first = MustCreate(request);
  grpc::Status status;
  Watch(first.name(), 0, &status);
  ASSERT_TRUE(datasets_->Delete("data").ok());
  EXPECT_EQ(MustCreate(request).name(), first.name());
  request.mutable_tuning_job()->set_priority(1);
  v1::TuningJob job;
  EXPECT_EQ(Reason(Create(request, &job)), "REQUEST_ID_REUSED");
}

TEST_F(TuningServiceTest, ListsInPagesWithFilters) {
  for (int i = 0; i < 5; ++i) {
    v1::CreateTuningJobRequest request = Request(absl::StrCat("job-", i));
    request.mutable_tuning_job()->set_tenant(i % 2 == 0 ? "even" : "odd");
    MustCreate(request);
  }
  v1::ListTuningJobsRequest request;
  request.set_page_size(2);
  std::vector<std::string> names;
  int pages = 0;
  do {
    v1::ListTuningJobsResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->ListTuningJobs(&context, request, &response).ok());
    for (const auto& job : response.tuning_jobs()) names.push_back(job.name());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_THAT(names, ElementsAre("tuningJobs/job-4", "tuningJobs/job-3", "tuningJobs/job-2", "tuningJobs/job-1",
                                 "tuningJobs/job-0"));

  v1::ListTuningJobsResponse response;
  request.set_tenant("odd");
  request.set_page_size(1);
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->ListTuningJobs(&first, request, &response).ok());
  EXPECT_EQ(response.tuning_jobs(0).name(), "tuningJobs/job-3");
  request.set_page_token(response.next_page_token());
  request.set_tenant("even");
  grpc::ClientContext second;
  EXPECT_EQ(Reason(stub_->ListTuningJobs(&second, request, &response)), "INVALID_PAGE_TOKEN");
  request.set_page_size(-1);
  grpc::ClientContext third;
  EXPECT_EQ(Field(stub_->ListTuningJobs(&third, request, &response)), "page_size");
  request.set_page_size(1);
  request.add_states(static_cast<v1::TuningJob::State>(99));
  grpc::ClientContext fourth;
  EXPECT_EQ(Field(stub_->ListTuningJobs(&fourth, request, &response)), "states");
}

TEST_F(TuningServiceTest, CommandsRefuseAStaleView) {
  runner_.SetScript("job", &FakeRunner::RunUntilStopped);
  v1::TuningJob job = MustCreate(Request("job"));
  v1::CancelTuningJobRequest cancel;
  cancel.set_name(job.name());
  cancel.set_etag("stale");
  v1::TuningJob response;
  grpc::ClientContext first;
  grpc::Status status = stub_->CancelTuningJob(&first, cancel, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Reason(status), "ETAG_MISMATCH");
  cancel.clear_etag();
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->CancelTuningJob(&second, cancel, &response).ok());
  Watch(job.name(), 0, &status);
  EXPECT_EQ(Get(job.name()).state(), v1::TuningJob::CANCELLED);

  v1::DeleteTuningJobRequest remove;
  remove.set_name(job.name());
  google::protobuf::Empty empty;
  grpc::ClientContext third;
  EXPECT_TRUE(stub_->DeleteTuningJob(&third, remove, &empty).ok());
  grpc::ClientContext fourth;
  EXPECT_EQ(Reason(stub_->DeleteTuningJob(&fourth, remove, &empty)), "TUNING_JOB_NOT_FOUND");
}

TEST_F(TuningServiceTest, WatchesToTheEndAndResumesWhereItStopped) {
  runner_.SetScript("job", [](const Job& job, JobControl& control) -> absl::StatusOr<JobOutcome> {
    absl::Status status = control.SetRunning({}, {});
    JobProgress progress;
    progress.step = 1;
    progress.train_loss = 2.5;
    status.Update(control.ReportEvaluation(progress));
    Checkpoint checkpoint;
    checkpoint.step = 1;
    checkpoint.best = true;
    status.Update(control.ReportCheckpoint(checkpoint));
    if (!status.ok()) return status;
    return JobOutcome{JobOutcome::Kind::kSucceeded, "tuned"};
  });
  v1::TuningJob job = MustCreate(Request("job"));
  grpc::Status status;
  std::vector<v1::JobEvent> events = Watch(job.name(), 0, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_GE(events.size(), 6);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), i + 1);
  EXPECT_EQ(events.front().state(), v1::TuningJob::QUEUED);
  EXPECT_EQ(events.back().state(), v1::TuningJob::SUCCEEDED);
  bool evaluated = false, saved = false;
  for (const v1::JobEvent& event : events) {
    evaluated |= event.type() == v1::JobEvent::EVALUATION && event.progress().train_loss() == 2.5;
    saved |= event.type() == v1::JobEvent::CHECKPOINT && event.checkpoint().name() == "tuningJobs/job/checkpoints/1";
  }
  EXPECT_TRUE(evaluated);
  EXPECT_TRUE(saved);
  EXPECT_EQ(Get(job.name()).tuned_model(), "models/tuned");

  std::vector<v1::JobEvent> rest = Watch(job.name(), events.size() - 2, &status);
  ASSERT_EQ(rest.size(), 2);
  EXPECT_EQ(rest[0].sequence(), events.size() - 1);

  v1::ListCheckpointsRequest request;
  request.set_parent(job.name());
  v1::ListCheckpointsResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->ListCheckpoints(&context, request, &response).ok());
  ASSERT_EQ(response.checkpoints_size(), 1);
  EXPECT_TRUE(response.checkpoints(0).best());
}

TEST_F(TuningServiceTest, AWatcherThatLeavesEndsItsCall) {
  runner_.SetScript("job", &FakeRunner::RunUntilStopped);
  v1::TuningJob job = MustCreate(Request("job"));
  v1::WatchTuningJobRequest request;
  request.set_name(job.name());
  grpc::ClientContext context;
  auto reader = stub_->WatchTuningJob(&context, request);
  v1::JobEvent event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const absl::Time start = absl::Now();
  server_->Shutdown();  // waits for the handler
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(TuningServiceTest, WatchingNothingIsAnError) {
  grpc::Status status;
  Watch("tuningJobs/none", 0, &status);
  EXPECT_EQ(Reason(status), "TUNING_JOB_NOT_FOUND");
  Watch("tuningJobs/none", -1, &status);
  EXPECT_EQ(Field(status), "after_sequence");
  Watch("models/none", 0, &status);
  EXPECT_EQ(Field(status), "name");
}

TEST_F(TuningServiceTest, EstimatesWithoutQueueing) {
  JobEstimate estimate;
  estimate.total_steps = 12;
  estimate.trainable_parameters = 34;
  estimate.peak_memory_bytes = 56;
  estimate.data_report.train_examples = 1;
  estimate.resolved_hyperparameters.batch_size = 8;
  runner_.SetEstimate(estimate);
  v1::EstimateTuningJobRequest request;
  *request.mutable_tuning_job() = Request().tuning_job();
  v1::EstimateTuningJobResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->EstimateTuningJob(&context, request, &response).ok());
  EXPECT_EQ(response.total_steps(), 12);
  EXPECT_EQ(response.trainable_parameters(), 34);
  EXPECT_EQ(response.peak_memory_bytes(), 56);
  EXPECT_EQ(response.data_report().train_examples(), 1);
  EXPECT_EQ(response.resolved_hyperparameters().batch_size(), 8);
  EXPECT_TRUE(response.admissible());
  EXPECT_TRUE(runner_.started().empty());
}

}  // namespace
}  // namespace attune
