#ifndef ATTUNE_TESTS_TUNING_RUNNER_FIXTURE_H_
#define ATTUNE_TESTS_TUNING_RUNNER_FIXTURE_H_

#include <memory>
#include <string>
#include <utility>

#include "common/error.h"
#include "common/file.h"
#include "server/adapters/residency.h"
#include "server/data/dataset_store.h"
#include "server/tuning/runner.h"
#include "tests/adapters/adapters_fixture.h"
#include "tests/evaluation/prompt_search/fake_control.h"

namespace attune {

// Whole tuning jobs over the tiny model "gguf", from stored rows to published model.
class RunnerFixture : public AdaptersFixture {
 protected:
  void SetUp() override {
    AdaptersFixture::SetUp();
    residency_ = std::make_unique<Residency>(registry_.get(), ComputeTarget{}, int64_t{1} << 30);
    datasets_ = DatasetStore::Open(temp_.File("datasets"), database_.get(), &clock_).value();
    std::string rows;
    for (int i = 0; i < 24; ++i) {
      rows += absl::StrCat(R"({"prompt": "row )", i, R"( says", "completion": " the )", i % 5, "\"}\n");
    }
    Upload("data", rows);
    TuningRunnerDeps deps;
    deps.datasets = datasets_.get();
    deps.registry = registry_.get();
    deps.residency = residency_.get();
    deps.clock = &clock_;
    deps.checkpoint_directory = temp_.File("jobs");
    runner_ = MakeTuningRunner(deps);
  }

  void Upload(const std::string& id, const std::string& bytes) {
    DatasetStore::UploadOptions options;
    options.info.id = id;
    auto upload = datasets_->BeginUpload(options);
    ASSERT_TRUE(upload.ok()) << upload.status();
    ASSERT_TRUE((*upload)->Append(bytes).ok());
    auto info = (*upload)->Commit();
    ASSERT_TRUE(info.ok()) << info.status();
  }

  // A job of four steps in float32.
  static Job MakeJob(const std::string& id, MethodSpec method) {
    Job job;
    job.spec.id = id;
    job.spec.tuned_model_id = id + "-model";
    job.spec.base_model = "gguf";
    job.spec.dataset = "data";
    job.spec.method = std::move(method);
    job.spec.hyperparameters.max_steps = 4;
    job.spec.hyperparameters.batch_size = 6;
    job.spec.hyperparameters.learning_rate = 0.01;
    job.spec.hyperparameters.precision = "float32";
    job.memory_bytes = int64_t{1} << 30;
    return job;
  }

  absl::Status Run(const Job& job) {
    control_ = std::make_unique<FakeControl>();
    return runner_->Run(job, *control_).status();
  }

  // Field and description of an estimate's error: "tuning_job.lora.rank must be ...".
  std::string Refusal(const JobSpec& spec) {
    const absl::Status status = runner_->Estimate(spec).status();
    const ErrorDetails details = GetErrorDetails(status);
    if (details.violations.empty()) return absl::StrCat(details.reason, " ", status.ToString());
    return absl::StrCat(details.violations[0].field, " ", details.violations[0].description);
  }

  std::unique_ptr<Residency> residency_;
  std::unique_ptr<DatasetStore> datasets_;
  std::unique_ptr<JobRunner> runner_;
  std::unique_ptr<FakeControl> control_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_TUNING_RUNNER_FIXTURE_H_
