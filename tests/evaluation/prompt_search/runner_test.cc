// Whole searches over an engine whose answers are scripted.
#include "server/evaluation/prompt_search/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/database.h"
#include "common/error.h"
#include "server/data/text_prompt.h"
#include "server/evaluation/evaluator.h"
#include "server/evaluation/prompt_search/search_data.h"
#include "tests/evaluation/prompt_search/fake_control.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kGood[] = "Feel the mood.";

class PromptSearchRunnerTest : public ::testing::Test {
 protected:
  // Of a run that waits for the engine, which never answers.
  void ExpectACancelEndsIt() {
    std::thread canceller([this] {
      EXPECT_TRUE(engine_.WaitForHeld());
      control_.Stop(StopRequest::kCancel);
    });
    const auto outcome = Run();
    canceller.join();
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->kind, JobOutcome::Kind::kStopped);
  }

  PromptSearchRunnerTest() {
    database_ = *Database::Open(":memory:");
    datasets_ = *DatasetStore::Open(folder_.File("datasets"), database_.get(), &clock_);
    registry_ = *ModelRegistry::Open(folder_.File("models"), database_.get(), &clock_, {});
    AddBase();
    AddRows(200);
    model_ = std::make_shared<ServedModel>();
    model_->info = *registry_->Get("base");
    model_->tokenizer_view = &tokenizer_;
    model_->context = 4000;
    engine_.SetScorer(
        [this](const ScoreParams& params, const std::vector<int32_t>& tokens) { return Answer(params, tokens); });
    engine_.SetGenerator([this](const GenerateParams&, int) {
      ++written_;
      return FakeEngine::Say("Tell which mood the text has.");
    });
    job_.spec.id = "job";
    job_.spec.base_model = "base";
    job_.spec.dataset = "mood";
    job_.spec.tuned_model_id = "mood-prompt";
    TextPromptSpec method;
    method.instructions = {"Do something.", kGood};
    method.max_examples = 2;
    method.candidates = 6;
    method.rounds = 2;
    job_.spec.method = method;
    PromptSearchDeps deps;
    deps.models = [this](absl::string_view) { return std::shared_ptr<const ServedModel>(model_); };
    deps.datasets = datasets_.get();
    deps.registry = registry_.get();
    deps.engine = &engine_;
    deps.checkpoint_directory = folder_.File("jobs");
    runner_ = MakePromptSearchRunner(deps);
  }

  void AddBase() {
    const std::string staging = *registry_->NewStagingDirectory();
    std::ofstream(staging + "/model.gguf") << "weights";
    ModelInfo info;
    info.id = "base";
    ASSERT_TRUE(registry_->Publish(info, staging).ok());
  }
  void AddRows(int count) {
    DatasetStore::UploadOptions options;
    options.info.id = "mood";
    options.info.prompt_template = "Text: {{text}}\nMood:";
    options.info.completion_template = " {{label}}";
    auto upload = *datasets_->BeginUpload(options);
    for (int i = 0; i < count; ++i) {
      const char* label = i % 2 ? "glad" : "sad";
      ASSERT_TRUE(upload->Append(absl::StrCat("{\"text\":\"", label, " ", i, "\",\"label\":\"", label, "\"}\n")).ok());
    }
    ASSERT_TRUE(upload->Commit().ok());
  }

  // Only with the good instruction does the model see the mood. Else it says "glad", but for
  // `biased_`: there it always sees it, under a bias for "glad".
  ScoredContinuation Answer(const ScoreParams& params, const std::vector<int32_t>& tokens) {
    const std::string prompt = tokenizer_.Decode(params.prompt, false);
    const std::string label = tokenizer_.Decode(tokens, true);
    ++asked_[absl::StrCat(prompt, "|", label)];
    const std::string input = prompt.substr(prompt.rfind("\n\n") == std::string::npos ? 0 : prompt.rfind("\n\n"));
    const bool is_glad = label == " glad", is_right = absl::StrContains(input, label.substr(1) + " ");
    double logprob = is_glad ? -1 : -2;
    if (biased_)
      logprob = (is_glad ? -1 : -3) + (is_right ? 0.5 : 0);
    else if (absl::StrContains(prompt, kGood))
      logprob = is_right ? -0.25 : -4;
    return FakeEngine::Uniform(tokens, logprob / static_cast<double>(tokens.size()), is_right);
  }

  // Of texts that are long where the mood is sad (the engine tells texts by their length), a model that gives the
  // answer of the example before the input.
  void UseCopyingModel() {
    DatasetStore::UploadOptions options;
    options.info.id = "near";
    options.info.prompt_template = "Text: {{text}}\nMood:";
    options.info.completion_template = " {{label}}";
    auto upload = *datasets_->BeginUpload(options);
    for (int i = 0; i < 200; ++i) {
      const std::string text(i % 2 ? 3 : 9, static_cast<char>('b' + i % 20));
      ASSERT_TRUE(
          upload->Append(absl::StrCat("{\"text\":\"", text, "\",\"label\":\"", i % 2 ? "glad" : "sad", "\"}\n")).ok());
    }
    ASSERT_TRUE(upload->Commit().ok());
    job_.spec.dataset = "near";
    method().instructions.clear();
    method().calibrate = false;
    engine_.SetScorer([this](const ScoreParams& params, const std::vector<int32_t>& tokens) {
      const std::string prompt = tokenizer_.Decode(params.prompt, false);
      const std::string example = prompt.substr(0, std::min(prompt.rfind("\n\n"), prompt.size()));
      const bool is_copied = absl::EndsWith(example, tokenizer_.Decode(tokens, true));
      return FakeEngine::Uniform(tokens, is_copied ? -0.1 : -3, is_copied);
    });
  }

  absl::StatusOr<JobOutcome> Run() { return runner_->Run(job_, control_); }
  TextPromptSpec& method() { return std::get<TextPromptSpec>(job_.spec.method); }
  TextPrompt Published() {
    auto prompt = ReadTextPrompt(registry_->Directory("mood-prompt"));
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return prompt.value_or(TextPrompt());
  }
  int Repeated() const {
    int repeated = 0;
    for (const auto& [question, times] : asked_) repeated += times > 1;
    return repeated;
  }

  TempFolder folder_;
  ManualClock clock_;
  FakeTokenizer tokenizer_{/*add_bos=*/false};
  FakeEngine engine_;
  FakeControl control_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> datasets_;
  std::unique_ptr<ModelRegistry> registry_;
  std::shared_ptr<ServedModel> model_;
  std::unique_ptr<JobRunner> runner_;
  Job job_;
  std::map<std::string, int> asked_;  // a prompt with a row, and a label
  int written_ = 0;
  bool biased_ = false;
};

TEST_F(PromptSearchRunnerTest, FindsTheInstructionThatWorksAndPublishesIt) {
  auto outcome = Run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->kind, JobOutcome::Kind::kSucceeded);
  EXPECT_EQ(outcome->tuned_model, "mood-prompt");
  const TextPrompt prompt = Published();
  EXPECT_THAT(prompt.instruction, HasSubstr(kGood));
  const ModelInfo info = *registry_->Get("mood-prompt");
  EXPECT_EQ(info.kind, ModelKind::kTextPrompt);
  EXPECT_EQ(info.base_model, "base");
  EXPECT_EQ(info.tuning_job, "job");
  EXPECT_EQ(info.prompt_template, *MakePromptTemplate(prompt));
  EXPECT_EQ(info.completion_template, " {{label}}");
  EXPECT_EQ(info.metrics.at("validation_score"), 1);
  EXPECT_LT(info.metrics.at("baseline_score"), 0.8);
  EXPECT_EQ(info.metrics.at("validation_rows"), 20);
  EXPECT_EQ(info.metrics.at("model_calls"), control_.progress.step);
  ASSERT_FALSE(prompt.trials.empty());
  EXPECT_EQ(prompt.trials[0].score, 1);
  // One line a round, and one at the end; figures where the client looks for them.
  EXPECT_THAT(control_.logs, Contains(HasSubstr("round 1 of 2: label accuracy")));
  EXPECT_THAT(control_.logs, Contains(HasSubstr("round 2 of 2")));
  EXPECT_THAT(control_.logs, Contains(HasSubstr("publishing")));
  EXPECT_EQ(control_.progress.validation_score, 1);
  EXPECT_EQ(control_.progress.total_steps, control_.progress.step);
  EXPECT_EQ(control_.report.train_examples, 180);
  EXPECT_EQ(control_.report.validation_examples, 20);
  EXPECT_EQ(control_.resolved.seed, 42);
  EXPECT_EQ(Repeated(), 0);
  EXPECT_EQ(written_, 8);
}

TEST_F(PromptSearchRunnerTest, ValidationRowsAreNeverExamples) {
  ASSERT_TRUE(Run().ok());
  for (const auto& [question, times] : asked_) {
    // Each text stands once in a prompt at most: as an example or as the row.
    const std::string prompt = question.substr(0, question.find('|'));
    const size_t at = prompt.rfind(": ");
    const std::string row = prompt.substr(at, prompt.find('\n', at) - at + 1);
    EXPECT_EQ(prompt.find(row), prompt.rfind(row)) << prompt;
  }
}

TEST_F(PromptSearchRunnerTest, NoRowOfThePoolIsAValidationRow) {
  method().selection = TextPromptSpec::Selection::kSimilar;
  ASSERT_TRUE(Run().ok());
  const SearchData data = *PrepareSearch(*datasets_, job_.spec, *model_, nullptr);
  ASSERT_EQ(data.validation.size(), 20);
  std::set<std::string> held;
  for (const Row& row : data.validation) held.insert(row.columns.at("text"));
  int64_t retrieving = 0;
  const TextPrompt prompt = Published();
  for (const TextPromptTrial& trial : prompt.trials) {
    EXPECT_EQ(trial.examples, 0);
    retrieving += trial.retrieved > 0;
  }
  EXPECT_GT(retrieving, 0);
  EXPECT_THAT(control_.logs, Contains(HasSubstr("examples by similarity come from 180 rows")));
  // Each of them was embedded once, and nothing else but what was asked about.
  EXPECT_LE(engine_.embedded().size(), 180 + 20 + 3);
  int64_t content_free = 0;
  for (const auto& [question, times] : asked_) {
    const std::string text = question.substr(0, question.find('|'));
    const size_t input = text.rfind("\n\n");
    if (input == std::string::npos) continue;
    // Inputs that say nothing get examples as any do.
    content_free += absl::StrContains(text, "ad\n\nText: N/A\nMood:");
    for (const std::string& row : held) {
      EXPECT_FALSE(absl::StrContains(text.substr(0, input), absl::StrCat(": ", row, "\n"))) << text;
    }
  }
  EXPECT_GT(content_free, 0);
}

TEST_F(PromptSearchRunnerTest, ExamplesBySimilarityWinWhereTheModelCopiesTheNearest) {
  UseCopyingModel();
  auto outcome = Run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const TextPrompt prompt = Published();
  ASSERT_NE(prompt.pool, nullptr);
  EXPECT_GE(prompt.retrieved, 1);
  EXPECT_EQ(prompt.pool->rows.size(), 180);
  EXPECT_TRUE(prompt.examples.empty());
  const ModelInfo info = *registry_->Get("mood-prompt");
  EXPECT_EQ(info.metrics.at("validation_score"), 1);
  EXPECT_LT(info.metrics.at("baseline_score"), 0.8);
  EXPECT_EQ(prompt.trials[0].retrieved, prompt.retrieved);
  EXPECT_THAT(control_.logs, Contains(HasSubstr("examples by similarity, ")));
  // As it serves, it does as in the search.
  model_->info = info;
  model_->retrieving_prompt = std::make_shared<const TextPrompt>(prompt);
  model_->label_offsets = prompt.label_offsets;
  const SearchData data = *PrepareSearch(*datasets_, job_.spec, *model_, nullptr);
  const auto measured = EvaluateRows(&engine_, model_, *datasets_->Get("near"), data.validation, EvaluationOptions(),
                                     [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->label_accuracy.value, 1);
}

TEST_F(PromptSearchRunnerTest, ASearchOverRetrievedExamplesResumesAlike) {
  UseCopyingModel();
  ASSERT_TRUE(Run().ok());
  const std::string uninterrupted = TextPromptToJson(Published());
  const int64_t tokens = control_.progress.trained_tokens;
  ASSERT_TRUE(registry_->Delete("mood-prompt", "").ok());
  control_.saved.clear();
  job_.spec.id = "again";
  control_.StopAfter(60, StopRequest::kPause);
  ASSERT_EQ(Run()->kind, JobOutcome::Kind::kStopped);
  control_.StopAfter(0, StopRequest::kNone);
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(TextPromptToJson(Published()), uninterrupted);
  EXPECT_EQ(control_.progress.trained_tokens, tokens);  // what is embedded again costs no more
}

TEST_F(PromptSearchRunnerTest, AModelThatCannotEmbedIsSearchedWithoutIt) {
  engine_.FailEmbeddings(absl::UnimplementedError("no hidden states here"));
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(Published().pool, nullptr);
  EXPECT_THAT(control_.logs, Contains(HasSubstr("no examples by similarity: no hidden states here")));
  method().selection = TextPromptSpec::Selection::kSimilar;
  job_.spec.tuned_model_id = "other";
  job_.spec.id = "job2";
  EXPECT_TRUE(absl::IsUnimplemented(Run().status()));
}

TEST_F(PromptSearchRunnerTest, OtherSelectionsEmbedNothing) {
  method().selection = TextPromptSpec::Selection::kLabelCoverage;
  ASSERT_TRUE(Run().ok());
  EXPECT_TRUE(engine_.embedded().empty());
}

TEST_F(PromptSearchRunnerTest, AHeldEmbeddingDoesNotHoldACancelledJob) {
  engine_.HoldEmbeddings();
  ExpectACancelEndsIt();
}

TEST_F(PromptSearchRunnerTest, CalibrationIsKeptWhereItHelps) {
  biased_ = true;
  method().rounds = 1;
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(registry_->Get("mood-prompt")->metrics.at("validation_score"), 1);
  const TextPrompt prompt = Published();
  ASSERT_EQ(prompt.label_offsets.size(), 2);
  EXPECT_GT(prompt.label_offsets.at("sad"), prompt.label_offsets.at("glad"));
  // Forbidden, the bias stays.
  job_.spec.tuned_model_id = "plain";
  job_.spec.id = "job2";
  method().calibrate = false;
  ASSERT_TRUE(Run().ok());
  EXPECT_LT(registry_->Get("plain")->metrics.at("validation_score"), 0.8);
  EXPECT_TRUE(ReadTextPrompt(registry_->Directory("plain"))->label_offsets.empty());
}

TEST_F(PromptSearchRunnerTest, LimitsAreKept) {
  method().max_calls = 100;
  ASSERT_TRUE(Run().ok());
  EXPECT_LE(asked_.size(), 2 * 100u);  // two labels a call
  EXPECT_EQ(registry_->Get("mood-prompt")->metrics.at("model_calls"), 100);
  method().max_calls = 0;
  method().max_tokens = 20'000;
  job_.spec.tuned_model_id = "tokens";
  job_.spec.id = "job2";
  ASSERT_TRUE(Run().ok());
  EXPECT_LE(control_.progress.trained_tokens, 20'000);
  EXPECT_GT(control_.progress.trained_tokens, 15'000);
  method().max_tokens = 1;
  job_.spec.tuned_model_id = "none";
  job_.spec.id = "job3";
  EXPECT_EQ(GetErrorDetails(Run().status()).reason, "BUDGET_TOO_SMALL");
}

TEST_F(PromptSearchRunnerTest, ALimitLeavesCallsForTheFinal) {
  method().rounds = 20;
  method().max_calls = 300;
  ASSERT_TRUE(Run().ok());
  EXPECT_LE(registry_->Get("mood-prompt")->metrics.at("model_calls"), 300);
  EXPECT_EQ(registry_->Get("mood-prompt")->metrics.at("validation_rows"), 20);  // all there are
}

TEST_F(PromptSearchRunnerTest, AResumedSearchAsksNothingAgainAndEndsAlike) {
  ASSERT_TRUE(Run().ok());
  const std::string uninterrupted = TextPromptToJson(Published());
  const int64_t calls = control_.progress.step;
  ASSERT_TRUE(registry_->Delete("mood-prompt", "").ok());
  asked_.clear();
  written_ = 0;
  control_.saved.clear();
  job_.spec.id = "again";
  for (int64_t stop = 50; stop < calls; stop += 90) {
    control_.StopAfter(stop, stop % 100 == 0 ? StopRequest::kShutdown : StopRequest::kPause);
    auto stopped = Run();
    ASSERT_TRUE(stopped.ok()) << stopped.status();
    EXPECT_EQ(stopped->kind, JobOutcome::Kind::kStopped);
    ASSERT_EQ(control_.saved.size(), 1);
    EXPECT_GE(control_.saved[0].step, stop);
    EXPECT_LE(control_.saved[0].step, stop + 32);  // those under way
  }
  control_.StopAfter(0, StopRequest::kNone);
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(TextPromptToJson(Published()), uninterrupted);
  EXPECT_EQ(control_.progress.step, calls);
  EXPECT_EQ(Repeated(), 0);
  EXPECT_EQ(written_, 8);
  EXPECT_THAT(control_.logs, Contains(HasSubstr("resumed with")));
}

TEST_F(PromptSearchRunnerTest, ADamagedCheckpointIsPassedOver) {
  control_.StopAfter(60, StopRequest::kPause);
  ASSERT_TRUE(Run().ok());
  ASSERT_EQ(control_.saved.size(), 1);
  std::ofstream(folder_.File(absl::StrCat("jobs/job/", control_.saved[0].step, "/search.json"))) << "{";
  control_.StopAfter(0, StopRequest::kNone);
  auto outcome = Run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->kind, JobOutcome::Kind::kSucceeded);
  EXPECT_THAT(control_.logs, Contains(HasSubstr("passed over a checkpoint")));
}

TEST_F(PromptSearchRunnerTest, ACancelledSearchSavesNothing) {
  control_.StopAfter(20, StopRequest::kCancel);
  auto outcome = Run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->kind, JobOutcome::Kind::kStopped);
  EXPECT_TRUE(control_.saved.empty());
  EXPECT_FALSE(registry_->Get("mood-prompt").ok());
}

TEST_F(PromptSearchRunnerTest, AHeldEngineDoesNotHoldACancelledJob) {
  engine_.HoldScores();
  ExpectACancelEndsIt();
}

TEST_F(PromptSearchRunnerTest, AFullQueueIsWaitedFor) {
  engine_.RefuseNext(3);
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(registry_->Get("mood-prompt")->metrics.at("validation_score"), 1);
}

TEST_F(PromptSearchRunnerTest, ARunAfterPublishingSucceeds) {
  ASSERT_TRUE(Run().ok());
  asked_.clear();
  auto outcome = Run();
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome->kind, JobOutcome::Kind::kSucceeded);
  EXPECT_TRUE(asked_.empty());
}

TEST_F(PromptSearchRunnerTest, OtherMetricsScoreTheExpectedAnswer) {
  for (auto metric : {TextPromptSpec::Metric::kExactMatch, TextPromptSpec::Metric::kLoss}) {
    method().metric = metric;
    job_.spec.tuned_model_id = absl::StrCat("metric-", static_cast<int>(metric));
    job_.spec.id = job_.spec.tuned_model_id;
    ASSERT_TRUE(Run().ok());
    EXPECT_TRUE(ReadTextPrompt(registry_->Directory(job_.spec.tuned_model_id))->label_offsets.empty());
  }
  EXPECT_THAT(ReadTextPrompt(registry_->Directory("metric-3"))->instruction, HasSubstr(kGood));
}

TEST_F(PromptSearchRunnerTest, EstimatesWithoutRunning) {
  auto estimate = runner_->Estimate(job_.spec);
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  EXPECT_GT(estimate->total_steps, 100);
  EXPECT_GT(estimate->duration_seconds, 0);
  EXPECT_EQ(estimate->trainable_parameters, 0);
  EXPECT_EQ(estimate->data_report.train_examples, 180);
  EXPECT_EQ(asked_.size(), 2);  // one row
  ASSERT_TRUE(Run().ok());
  EXPECT_LE(control_.progress.step, estimate->total_steps);
  EXPECT_EQ(GetErrorDetails(runner_->Estimate(job_.spec).status()).reason, "MODEL_EXISTS");
  job_.spec.tuned_model_id = "other";
  model_->info.kind = ModelKind::kTextPrompt;
  EXPECT_EQ(GetErrorDetails(runner_->Estimate(job_.spec).status()).reason, "BASE_IS_ADAPTER");
  model_->info.kind = ModelKind::kBase;
  job_.spec.dataset = "nothing";
  EXPECT_TRUE(absl::IsNotFound(runner_->Estimate(job_.spec).status()));
}

}  // namespace
}  // namespace attune
