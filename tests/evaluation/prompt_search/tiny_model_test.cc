// A search over the real engine with a small random model.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/database.h"
#include "server/adapters/registry.h"
#include "server/data/text_prompt.h"
#include "server/evaluation/prompt_search/runner.h"
#include "tests/engine/engine_fixture.h"
#include "tests/evaluation/prompt_search/fake_control.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

// Counts requests, and what the prefix cache had of them.
class CallLog final : public EngineObserver {
 public:
  void OnFinished(const ServedModel&, FinishReason, int, int, const RequestTimings&) override { ++calls_; }
  void OnLetIn(int64_t, int64_t cached) override { cached_ += cached; }
  int64_t calls() const { return calls_; }
  int64_t cached() const { return cached_; }

 private:
  std::atomic<int64_t> calls_ = 0, cached_ = 0;
};

class TinyModelSearchTest : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    ComputeTarget target;
    target.batch_invariant = true;  // or rounding would depend on what runs together
    Load(target);
    Start(&log_);
    database_ = *Database::Open(":memory:");
    datasets_ = *DatasetStore::Open(temp_.File("datasets"), database_.get(), &clock_);
    registry_ = *ModelRegistry::Open(temp_.File("models"), database_.get(), &clock_, {});
    AddBaseAndRows();
    auto model = std::make_shared<ServedModel>();
    model->info = *registry_->Get("base");
    model->base = base_;
    model->uid = 1;
    model->tokenizer_view = base_->tokenizer.get();
    model->context = base_->config.context;
    PromptSearchDeps deps;
    deps.models = [model](absl::string_view) { return std::shared_ptr<const ServedModel>(model); };
    deps.datasets = datasets_.get();
    deps.registry = registry_.get();
    deps.engine = engine_.get();
    deps.checkpoint_directory = temp_.File("jobs");
    runner_ = MakePromptSearchRunner(deps);
  }

  void AddBaseAndRows() {
    const std::string staging = *registry_->NewStagingDirectory();
    std::ofstream(staging + "/model.gguf") << "weights";
    ModelInfo info;
    info.id = "base";
    ASSERT_TRUE(registry_->Publish(info, staging).ok());
    DatasetStore::UploadOptions options;
    options.info.id = "rows";
    options.info.prompt_template = "{{t}}:";
    options.info.completion_template = " {{l}}";
    auto upload = *datasets_->BeginUpload(options);
    for (int i = 0; i < 80; ++i) {
      ASSERT_TRUE(upload->Append(absl::StrCat("{\"t\":\"", i * 37, "\",\"l\":\"", i % 3 ? "x" : "hell", "\"}\n")).ok());
    }
    ASSERT_TRUE(upload->Commit().ok());
  }

  Job MakeJob(const std::string& id) {
    Job job;
    job.spec.id = id;
    job.spec.base_model = "base";
    job.spec.dataset = "rows";
    job.spec.data.validation_fraction = 0.4;
    job.spec.tuned_model_id = absl::StrCat(id, "-model");
    TextPromptSpec method;
    method.max_examples = 2;
    method.candidates = 6;
    method.rounds = 2;
    method.selection = selection_;
    job.spec.method = method;
    return job;
  }
  std::string Published(const std::string& id) {
    auto prompt = ReadTextPrompt(registry_->Directory(absl::StrCat(id, "-model")));
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return prompt.ok() ? TextPromptToJson(*prompt) : "";
  }

  // Embeddings are requests, too, but no calls of the search.
  TextPromptSpec::Selection selection_ = TextPromptSpec::Selection::kLabelCoverage;
  CallLog log_;
  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> datasets_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<JobRunner> runner_;
};

TEST_F(TinyModelSearchTest, TheSeedDecidesTheResult) {
  FakeControl first, second;
  auto outcome = runner_->Run(MakeJob("one"), first);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->tuned_model, "one-model");
  EXPECT_EQ(log_.calls(), first.progress.step);
  EXPECT_GT(log_.cached(), 0);
  ASSERT_TRUE(runner_->Run(MakeJob("two"), second).ok());
  EXPECT_EQ(Published("one"), Published("two"));
  EXPECT_EQ(first.progress.step, second.progress.step);
}

TEST_F(TinyModelSearchTest, PausesAndResumesWithoutRepeatingACall) {
  FakeControl whole, cut;
  ASSERT_TRUE(runner_->Run(MakeJob("whole"), whole).ok());
  const int64_t before = log_.calls();
  cut.StopAfter(40, StopRequest::kPause);
  auto paused = runner_->Run(MakeJob("cut"), cut);
  ASSERT_TRUE(paused.ok()) << paused.status();
  EXPECT_EQ(paused->kind, JobOutcome::Kind::kStopped);
  EXPECT_LT(log_.calls() - before, 40 + 33);
  cut.StopAfter(0, StopRequest::kNone);
  ASSERT_TRUE(runner_->Run(MakeJob("cut"), cut).ok());
  EXPECT_EQ(log_.calls() - before, whole.progress.step);
  EXPECT_EQ(Published("cut"), Published("whole"));
}

TEST_F(TinyModelSearchTest, ExamplesBySimilarityAreTheSameWheneverTheyAreRetrieved) {
  selection_ = TextPromptSpec::Selection::kSimilar;
  FakeControl first, second, cut;
  auto outcome = runner_->Run(MakeJob("one"), first);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_TRUE(runner_->Run(MakeJob("two"), second).ok());
  EXPECT_EQ(Published("one"), Published("two"));
  EXPECT_EQ(first.progress.trained_tokens, second.progress.trained_tokens);
  EXPECT_EQ(log_.calls() % 2, 0);
  EXPECT_GT(log_.calls() / 2, first.progress.step);
  cut.StopAfter(40, StopRequest::kPause);
  ASSERT_TRUE(runner_->Run(MakeJob("cut"), cut).ok());
  cut.StopAfter(0, StopRequest::kNone);
  ASSERT_TRUE(runner_->Run(MakeJob("cut"), cut).ok());
  EXPECT_EQ(Published("cut"), Published("one"));
}

TEST_F(TinyModelSearchTest, CancelledAndLimitedSearchesStop) {
  FakeControl cancelled, limited;
  cancelled.StopAfter(5, StopRequest::kCancel);
  auto outcome = runner_->Run(MakeJob("cancelled"), cancelled);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->kind, JobOutcome::Kind::kStopped);
  Job job = MakeJob("limited");
  std::get<TextPromptSpec>(job.spec.method).max_calls = 50;
  ASSERT_TRUE(runner_->Run(job, limited).ok());
  EXPECT_EQ(limited.progress.step, 50);
}

TEST_F(TinyModelSearchTest, AServerThatGoesDownPutsTheJobOff) {
  FakeControl control;
  std::thread down([&] {
    while (log_.calls() < 10) std::this_thread::yield();
    engine_->Shutdown(absl::ZeroDuration());
    control.Stop(StopRequest::kShutdown);
  });
  auto outcome = runner_->Run(MakeJob("down"), control);
  down.join();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->kind, JobOutcome::Kind::kStopped);
  EXPECT_EQ(control.saved.size(), 1);
}

}  // namespace
}  // namespace attune
