#include "server/comparison/comparison_manager.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/error.h"
#include "common/log.h"
#include "server/comparison/measure_names.h"
#include "server/data/text_prompt.h"
#include "tests/jobs/fake_runner.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;
using Kind = ContenderKind;

// Real stores, job manager and registry; jobs publish at once a model without weights, and what a model answers hangs on its
// id alone: one in ten of "lora"'s answers is wrong, every second one of the base model's.
class ComparisonManagerTest : public ::testing::Test {
 protected:
  ComparisonManagerTest() {
    SetLogLevel(LogLevel::kError);
    database_ = *Database::Open(":memory:");
    datasets_ = *DatasetStore::Open(folder_.File("datasets"), database_.get(), &clock_);
    job_store_ = *JobStore::Open(database_.get(), &clock_);
    ModelRegistry::Options registry;
    registry.import_roots = {folder_.path()};
    registry.inspect = [](const std::string&) -> absl::StatusOr<Architecture> {
      return Architecture{.family = "llama", .layers = 8, .context_tokens = 1024};
    };
    models_ = *ModelRegistry::Open(folder_.File("models"), database_.get(), &clock_, registry);
    folder_.Write("base.gguf", "weights");
    EXPECT_TRUE(models_->Import({.source_path = folder_.File("base.gguf"), .id = "base"}).ok());
    store_ = *ComparisonStore::Open(database_.get(), &clock_);
    runner_.SetDefault([this](const Job& job, JobControl& control) { return PublishModel(job, control); });
    JobManager::Options options;
    options.max_concurrent_jobs = 4;
    jobs_ = std::make_unique<JobManager>(job_store_.get(), &runner_, &clock_, options);
    EXPECT_TRUE(jobs_->Start().ok());
    engine_.SetScorer([this](const ScoreParams& params, const std::vector<int32_t>& tokens) { return Score(params, tokens); });
    engine_.SetGenerator([this](const GenerateParams& params, int) { return FakeEngine::Say(Answer(params)); });
    std::string rows;
    for (int i = 0; i < 200; ++i) absl::StrAppend(&rows, MoodRow(i));
    Upload("mood", rows);
    Restart();
  }

  static std::string MoodRow(int i) {
    const char* word = i % 2 ? "good" : "bad";
    return absl::StrCat("{\"text\":\"row", i, " ", word, "\",\"label\":\"", i % 2 ? "glad" : "sad", "\"}\n");
  }

  void Upload(const std::string& id, const std::string& rows, const std::string& completion = " {{label}}") {
    DatasetStore::UploadOptions options;
    options.info.id = id;
    if (!completion.empty()) options.info.prompt_template = "T: {{text}} M:";
    options.info.completion_template = completion;
    auto upload = datasets_->BeginUpload(options);
    ASSERT_TRUE(upload.ok()) << upload.status();
    ASSERT_TRUE((*upload)->Append(rows).ok());
    const auto info = (*upload)->Commit();
    ASSERT_TRUE(info.ok()) << info.status();
  }

  absl::StatusOr<JobOutcome> PublishModel(const Job& job, JobControl& control) {
    ATTUNE_RETURN_IF_ERROR(control.SetRunning({}, {}));
    control.AddTrainingSeconds(2);
    if (watts_ > 0) control.AddEnergy(2 * watts_);
    ATTUNE_RETURN_IF_ERROR(control.ReportEvaluation({}));
    ATTUNE_ASSIGN_OR_RETURN(const std::string staging, models_->NewStagingDirectory());
    std::ofstream(std::filesystem::path(staging) / "adapter") << "bytes";
    ModelInfo info;
    info.id = job.spec.tuned_model_id;
    info.kind = std::holds_alternative<FullSpec>(job.spec.method) ? ModelKind::kFullWeights : ModelKind::kLora;
    info.base_model = job.spec.base_model;
    info.tuning_job = job.spec.id;
    info.dataset_kind = DatasetKind::kPromptCompletion;
    const bool is_search = std::holds_alternative<TextPromptSpec>(job.spec.method);
    info.prompt_template = is_search ? "Found! T: {{text}} M:" : job.spec.data.prompt_template;
    if (is_search) {
      TextPrompt found;
      found.instruction = "Found!";
      found.input_template = "T: {{text}} M:";
      found.output_template = " {{label}}";
      ATTUNE_RETURN_IF_ERROR(WriteTextPrompt(staging, found));
      info.max_sequence_tokens = 77;
    }
    ATTUNE_RETURN_IF_ERROR(models_->Publish(info, staging).status());
    return JobOutcome{JobOutcome::Kind::kSucceeded, info.id};
  }

  // Whether that model answers that row rightly.
  static bool IsRight(const std::string& model, const std::string& prompt) {
    if (absl::StrContains(model, "lora") || absl::StrContains(model, "hybrid")) return !absl::StrContains(prompt, "5 ");
    if (absl::StrContains(model, "full")) return !absl::StrContains(prompt, "7 ") && !absl::StrContains(prompt, "5 ");
    return absl::StrContains(prompt, "good");  // says "glad" to everything
  }

  ScoredContinuation Score(const ScoreParams& params, const std::vector<int32_t>& tokens) const {
    const std::string prompt = tokenizer_.Decode(params.prompt, true), answer = tokenizer_.Decode(tokens, true);
    if (!absl::StrContains(prompt, "row")) {  // of the probe, or of own text: "full" has forgotten what others know
      const bool knows = !absl::StrContains(params.model->info.id, "full") || tokens.size() % 2;
      return FakeEngine::Uniform(tokens, knows ? -1 : -2, true);
    }
    const bool is_true = absl::StrContains(answer, absl::StrContains(prompt, "good") ? "glad" : "sad");
    return FakeEngine::Uniform(tokens, is_true == IsRight(params.model->info.id, prompt) ? -0.1 : -2, true);
  }

  std::string Answer(const GenerateParams& params) const {
    const std::string prompt = tokenizer_.Decode(params.prompt, true);
    return IsRight(params.model->info.id, prompt) ? " a long and right answer" : " quite another thing";
  }

  // A manager on what the store has, as after a restart of the server.
  void Restart() {
    manager_.reset();
    ComparisonDeps deps;
    deps.store = store_.get();
    deps.jobs = jobs_.get();
    deps.datasets = datasets_.get();
    deps.models = models_.get();
    deps.engine = &engine_;
    deps.clock = &clock_;
    deps.acquire = [this](absl::string_view id) { return Acquire(id); };
    deps.delete_model = [this](absl::string_view id) { return models_->Delete(id, ""); };
    manager_ = std::make_unique<ComparisonManager>(deps);
    manager_->Start();
  }

  absl::StatusOr<std::shared_ptr<const ServedModel>> Acquire(absl::string_view id) {
    ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, models_->Get(id));
    if (broken_.contains(info.id)) return absl::ResourceExhaustedError("It does not fit.");
    auto model = std::make_shared<ServedModel>();
    model->info = std::move(info);
    model->tokenizer_view = &tokenizer_;
    model->context = 1024;
    return model;
  }

  static ComparisonSpec Spec(std::vector<Kind> contenders, const std::string& id = "c") {
    ComparisonSpec spec;
    spec.id = id;
    spec.base_model = "base";
    spec.dataset = "mood";
    spec.contenders = std::move(contenders);
    spec.max_trials = 1;
    spec.skip_side_effects = true;
    return spec;
  }

  Comparison MustCreate(ComparisonSpec spec) {
    const auto made = manager_->Create(std::move(spec), "");
    EXPECT_TRUE(made.ok()) << made.status();
    return made.value_or(Comparison());
  }

  Comparison AwaitEnd(const std::string& id = "c") {
    Comparison now;
    while (!IsFinal(now.state)) {
      const auto next = manager_->Wait(id, now.version, absl::InfiniteFuture(), nullptr);
      if (!next.ok()) {
        ADD_FAILURE() << next.status();
        break;
      }
      now = *next;
    }
    return now;
  }

  Comparison Run(ComparisonSpec spec) {
    const std::string id = spec.id;
    MustCreate(std::move(spec));
    return AwaitEnd(id);
  }

  std::vector<std::string> ModelIds() {
    std::vector<std::string> ids;
    const std::vector<ModelInfo> all = models_->List(100, INT64_MAX).value();
    for (const ModelInfo& info : all) ids.push_back(info.id);
    return ids;
  }

  static double Value(const Comparison& comparison, Kind kind, absl::string_view name) {
    const Contender* contender = comparison.FindContender(kind);
    const Measure* measure = contender ? contender->Find(name) : nullptr;
    EXPECT_NE(measure, nullptr) << ContenderName(kind) << " lacks " << name;
    return measure ? measure->value : -1;
  }

  TempFolder folder_;
  ManualClock clock_;
  FakeTokenizer tokenizer_;
  FakeEngine engine_;
  FakeRunner runner_;
  double watts_ = 0;  // of the device; 0: it does not tell
  std::set<std::string> broken_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> datasets_;
  std::unique_ptr<JobStore> job_store_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<JobManager> jobs_;
  std::unique_ptr<ComparisonStore> store_;
  std::unique_ptr<ComparisonManager> manager_;
};

TEST_F(ComparisonManagerTest, RanksByTheTestPartAndKeepsTheWinnerAlone) {
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kHandPrompt, Kind::kLora, Kind::kFull});
  spec.hand_prompt = "Glad or sad? {{text}}";
  spec.max_trials = 2;
  spec.price_per_device_hour = 3600;
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.metric, QualityMetric::kLabelAccuracy);
  EXPECT_THAT(done.choices, ElementsAre("glad", "sad"));
  EXPECT_EQ(done.train_examples, 140);
  EXPECT_EQ(done.validation_examples, 20);
  EXPECT_EQ(done.test_examples, 40);
  EXPECT_EQ(done.contenders[done.winner].kind, Kind::kLora);
  EXPECT_EQ(Value(done, Kind::kZeroShot, kQuality), 0.5);
  EXPECT_GE(Value(done, Kind::kLora, kQuality), Value(done, Kind::kFull, kQuality));
  const Contender& lora = *done.FindContender(Kind::kLora);
  ASSERT_EQ(lora.trials.size(), 2u);
  EXPECT_EQ(lora.trials[1].rate_multiplier, 2);
  EXPECT_EQ(Value(done, Kind::kLora, kSearchSeconds), 4);
  EXPECT_EQ(Value(done, Kind::kLora, kPrice), 4);
  EXPECT_EQ(lora.Find(kTrainingEnergy), nullptr) << "the device does not tell";
  EXPECT_EQ(lora.Find(kSearchEnergy), nullptr);
  EXPECT_THAT(done.verdict, HasSubstr("Take lora"));
  EXPECT_THAT(ModelIds(), UnorderedElementsAre("base", lora.model));
  for (const Disagreement& one : done.disagreements) {
    EXPECT_THAT(one.prompt, HasSubstr("T: row"));
    EXPECT_THAT(one.prompt, Not(HasSubstr("label"))) << "the answer is no part of the question";
  }
}

TEST_F(ComparisonManagerTest, EnergyIsToldOfTheTrialTakenAndOfAll) {
  watts_ = 300;
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.max_trials = 2;
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.FindContender(Kind::kLora)->trials[0].energy_joules, 600);
  EXPECT_EQ(Value(done, Kind::kLora, kTrainingEnergy), 600);
  EXPECT_EQ(Value(done, Kind::kLora, kSearchEnergy), 1200);
  EXPECT_EQ(done.FindContender(Kind::kZeroShot)->Find(kTrainingEnergy), nullptr) << "nothing was trained";
}

TEST_F(ComparisonManagerTest, AHybridIsTrainedInTheSearchedPromptsTemplateAndModelsStayOnRequest) {
  ComparisonSpec spec = Spec({Kind::kTextPrompt, Kind::kHybrid});
  spec.keep_models = true;
  std::string rows;
  for (int i = 200; i < 250; ++i) absl::StrAppend(&rows, MoodRow(i));
  Upload("unseen", rows);
  Upload("choosing", rows);
  spec.test_dataset = "unseen";
  spec.validation_dataset = "choosing";
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.train_examples, 200);
  EXPECT_EQ(done.validation_examples, 50);
  EXPECT_EQ(done.test_examples, 50);
  EXPECT_EQ(jobs_->Get("cmp-c-hybrid-1")->spec.data.prompt_template, "Found! T: {{text}} M:");
  EXPECT_EQ(jobs_->Get("cmp-c-hybrid-1")->spec.validation_dataset, "choosing");
  EXPECT_EQ(jobs_->Get("cmp-c-hybrid-1")->spec.data.max_sequence_tokens, 77);
  EXPECT_THAT(ModelIds(), UnorderedElementsAre("base", "cmp-c-text-prompt-1", "cmp-c-hybrid-1"));
}

TEST_F(ComparisonManagerTest, LearningCurvesTrainOnPartsAndLeaveNoModels) {
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.learning_curve = true;
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_THAT(done.FindContender(Kind::kZeroShot)->curve, IsEmpty());
  const std::vector<CurveTrial>& curve = done.FindContender(Kind::kLora)->curve;
  ASSERT_EQ(curve.size(), 3u);
  const std::vector<std::string> parts = {"eighth", "quarter", "half"};
  const std::vector<int64_t> rows = {17, 35, 70};
  for (size_t i = 0; i < curve.size(); ++i) {
    EXPECT_EQ(curve[i].examples, rows[i]);
    EXPECT_EQ(curve[i].trial.state, Trial::State::kDone) << curve[i].trial.error;
    EXPECT_EQ(curve[i].trial.validation.count, 20);
    EXPECT_EQ(jobs_->Get(curve[i].trial.tuning_job)->spec.dataset, absl::StrCat("cmp-c-", parts[i]));
    EXPECT_EQ(datasets_->Get(absl::StrCat("cmp-c-", parts[i]))->row_count, rows[i]);
    EXPECT_EQ(curve[i].trial.model, "");
  }
  EXPECT_EQ(Value(done, Kind::kLora, kSearchSeconds), 2) << "the curve is no cost of the method";
  EXPECT_THAT(ModelIds(), UnorderedElementsAre("base", "cmp-c-lora-1"));
}

TEST_F(ComparisonManagerTest, RetentionIsAskedInItsOwnTemplate) {
  std::string rows;
  for (int i = 0; i < 60; ++i) absl::StrAppend(&rows, MoodRow(i));
  Upload("keep", rows);
  ComparisonSpec spec = Spec({Kind::kHandPrompt, Kind::kFull});
  spec.hand_prompt = "{{text}}";
  spec.data.prompt_template = "Other: {{text}} M:";
  spec.retention_dataset = "keep";
  spec.skip_side_effects = false;
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(Value(done, Kind::kHandPrompt, kRetention), 0.5);
  EXPECT_EQ(Value(done, Kind::kHandPrompt, kRetentionLoss), 0);
  EXPECT_EQ(Value(done, Kind::kFull, kRetention), 48.0 / 60) << "wrong in rows that end in 5 or 7";
  EXPECT_NEAR(Value(done, Kind::kFull, kRetentionLoss), 0.5 - 0.8, 1e-9);
  EXPECT_EQ(Value(done, Kind::kHandPrompt, kForgetting), 0);
  EXPECT_GT(Value(done, Kind::kFull, kDivergence), 0);
  EXPECT_EQ(done.FindContender(Kind::kFull)->Find(kRetention)->count, 60);
}

TEST_F(ComparisonManagerTest, FreeTextIsJudgedAsSuitsIt) {
  std::string rows;
  for (int i = 0; i < 60; ++i) absl::StrAppend(&rows, "{\"text\":\"row", i, " good\",\"answer\":\"a long and right answer\"}\n");
  Upload("text", rows, " {{answer}}");
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.dataset = "text";
  spec.pattern = "a .*";
  spec.max_answer_tokens = 7;
  Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.metric, QualityMetric::kRougeL);
  EXPECT_EQ(Value(done, Kind::kZeroShot, kQuality), 1);
  EXPECT_LT(Value(done, Kind::kLora, kQuality), 1) << "rows that end in 5";
  EXPECT_EQ(Value(done, Kind::kLora, kExactMatch), Value(done, Kind::kLora, kPatternMatch));
  EXPECT_GT(Value(done, Kind::kLora, kBleu), 0.5);
  EXPECT_EQ(done.FindContender(Kind::kLora)->Find(kMacroF1), nullptr);
  EXPECT_EQ(engine_.last_generate().max_tokens, 7);

  // The labels' data, asked for exact answers.
  spec = Spec({Kind::kZeroShot, Kind::kLora}, "exact");
  spec.metric = QualityMetric::kExactMatch;
  done = Run(spec);
  EXPECT_EQ(done.metric, QualityMetric::kExactMatch);
  EXPECT_THAT(done.choices, IsEmpty());
  EXPECT_EQ(Value(done, Kind::kZeroShot, kQuality), 0);
}

TEST_F(ComparisonManagerTest, FewRowsToTrainOnAreNotChosenByMany) {
  std::string rows;
  for (int i = 0; i < 1600; ++i) absl::StrAppend(&rows, MoodRow(i));
  Upload("many", rows);
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.dataset = "many";
  spec.max_test_examples = 40;
  spec.max_train_examples = 200;
  const Comparison done = Run(spec);
  EXPECT_EQ(done.train_examples, 200);
  EXPECT_EQ(done.validation_examples, 100) << "of 160";
  EXPECT_EQ(done.test_examples, 40);
}

TEST_F(ComparisonManagerTest, PlainTextIsComparedByLikelihood) {
  std::string rows;
  for (int i = 0; i < 60; ++i) absl::StrAppend(&rows, "{\"text\":\"row", i, " is glad and good\"}\n");
  Upload("prose", rows, "");
  ComparisonSpec spec = Spec({});
  spec.dataset = "prose";
  engine_.SetScorer([](const ScoreParams& params, const std::vector<int32_t>& tokens) {
    return FakeEngine::Uniform(tokens, params.model->info.id == "base" ? -2 : -0.5, true);
  });
  Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.metric, QualityMetric::kLikelihood);
  EXPECT_EQ(done.contenders.size(), 7u) << "no prompts";
  EXPECT_NEAR(Value(done, Kind::kZeroShot, kQuality), std::exp(-2), 1e-6);
  spec.contenders = {Kind::kZeroShot, Kind::kTextPrompt};
  spec.id = "prompted";
  EXPECT_EQ(GetErrorDetails(manager_->Create(spec, "").status()).violations[0].field, "comparison.contenders");
  EXPECT_NEAR(Value(done, Kind::kLora, kQuality), std::exp(-0.5), 1e-6);
  EXPECT_NEAR(Value(done, Kind::kLora, kPerplexity), std::exp(0.5), 1e-6);
  EXPECT_EQ(done.FindContender(Kind::kLora)->Find(kBleu), nullptr);
  EXPECT_THAT(done.disagreements, IsEmpty());

  spec = Spec({Kind::kZeroShot, Kind::kLora}, "text");
  spec.dataset = "prose";
  spec.metric = QualityMetric::kRougeL;
  EXPECT_EQ(Run(spec).error->reason, "NO_ANSWERS");
}

TEST_F(ComparisonManagerTest, OneContendersErrorIsItsOwn) {
  runner_.SetScript("cmp-c-full-1", [](const Job&, JobControl& control) -> absl::StatusOr<JobOutcome> {
    ATTUNE_RETURN_IF_ERROR(control.SetRunning({}, {}));
    return absl::InternalError("out of luck");
  });
  broken_ = {"cmp-c-ia3-1"};
  const Comparison done = Run(Spec({Kind::kZeroShot, Kind::kFull, Kind::kIa3, Kind::kLora}));
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.FindContender(Kind::kFull)->state, Contender::State::kFailed);
  EXPECT_THAT(done.FindContender(Kind::kFull)->note, HasSubstr("out of luck"));
  EXPECT_EQ(done.FindContender(Kind::kIa3)->state, Contender::State::kFailed);
  EXPECT_THAT(done.FindContender(Kind::kIa3)->note, HasSubstr("does not fit"));
  EXPECT_EQ(done.contenders[done.winner].kind, Kind::kLora);
}

TEST_F(ComparisonManagerTest, CancelEndsAQueuedOneAtOnceAndARunningOneWithItsJobs) {
  runner_.SetScript("cmp-c-lora-1", &FakeRunner::RunUntilStopped);
  MustCreate(Spec({Kind::kZeroShot, Kind::kLora}));
  MustCreate(Spec({Kind::kZeroShot, Kind::kLora}, "second"));
  while (!jobs_->Get("cmp-c-lora-1").ok()) std::this_thread::yield();
  EXPECT_EQ(manager_->Cancel("second")->state, ComparisonState::kCancelled);
  EXPECT_EQ(GetErrorDetails(manager_->Cancel("second").status()).reason, "COMPARISON_ENDED");
  EXPECT_THAT(*store_->ActiveUsersOfModel("base"), ElementsAre("c"));
  EXPECT_THAT(*store_->ActiveUsersOfDataset("mood"), ElementsAre("c"));
  EXPECT_THAT(*store_->ActiveUsersOfDataset("cmp-c-train"), ElementsAre("c"));
  EXPECT_THAT(*store_->ActiveUsersOfDataset("cmp-d-train"), IsEmpty());
  EXPECT_THAT(*store_->ActiveUsersOfModel("cmp-c-lora-1"), ElementsAre("c"));
  EXPECT_THAT(*store_->ActiveNamersOfModel("cmp-c-lora-1"), IsEmpty()) << "what it made it may delete";
  EXPECT_THAT(*store_->ActiveNamersOfModel("base"), ElementsAre("c"));
  ASSERT_TRUE(manager_->Cancel("c").ok());
  EXPECT_EQ(AwaitEnd().state, ComparisonState::kCancelled);
  while (!IsFinal(jobs_->Get("cmp-c-lora-1")->state)) std::this_thread::yield();
  EXPECT_EQ(jobs_->Get("cmp-c-lora-1")->state, JobState::kCancelled);
  EXPECT_THAT(*store_->ActiveUsersOfModel("base"), IsEmpty());
}

TEST_F(ComparisonManagerTest, ARestartGoesOnWhereItWas) {
  absl::Notification may_end;
  runner_.SetScript("cmp-c-full-1", [&](const Job& job, JobControl& control) {
    may_end.WaitForNotification();
    return PublishModel(job, control);
  });
  MustCreate(Spec({Kind::kZeroShot, Kind::kLora, Kind::kFull}));
  while (manager_->Get("c")->FindContender(Kind::kLora)->best_trial < 0) std::this_thread::yield();
  Restart();
  may_end.Notify();
  const Comparison done = AwaitEnd();
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  std::vector<std::string> started = runner_.started();
  EXPECT_THAT(started, UnorderedElementsAre("cmp-c-lora-1", "cmp-c-full-1"));
}

TEST_F(ComparisonManagerTest, ANameCanBeUsedAgain) {
  ASSERT_EQ(Run(Spec({Kind::kZeroShot, Kind::kLora})).state, ComparisonState::kSucceeded);
  ASSERT_TRUE(manager_->Delete("c").ok());
  ASSERT_TRUE(datasets_->Delete("cmp-c-train").ok());  // whatever else is left is enough
  clock_.Advance(absl::Seconds(1));
  const Comparison again = Run(Spec({Kind::kZeroShot, Kind::kLora}));
  ASSERT_EQ(again.state, ComparisonState::kSucceeded) << again.state_reason;
  EXPECT_THAT(again.contenders[1].model, Not("cmp-c-lora-1"));
  EXPECT_THAT(ModelIds(), UnorderedElementsAre("base", "cmp-c-lora-1", again.contenders[1].model));
}

TEST_F(ComparisonManagerTest, ARestartInALearningCurveRepeatsNothing) {
  absl::Notification may_end;
  runner_.SetScript("cmp-c-lora-half", [&](const Job& job, JobControl& control) {
    may_end.WaitForNotification();
    return PublishModel(job, control);
  });
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.learning_curve = true;
  MustCreate(spec);
  const auto is_quarter_done = [&] {
    const std::vector<CurveTrial> curve = manager_->Get("c")->FindContender(Kind::kLora)->curve;
    return curve.size() == 3 && curve[1].trial.state == Trial::State::kDone;
  };
  while (!is_quarter_done()) std::this_thread::yield();
  EXPECT_THAT(ModelIds(), Not(Contains("cmp-c-lora-quarter"))) << "gone once it is measured";
  Restart();
  may_end.Notify();
  const Comparison done = AwaitEnd();
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  for (const CurveTrial& point : done.FindContender(Kind::kLora)->curve) EXPECT_EQ(point.trial.state, Trial::State::kDone);
  EXPECT_EQ(runner_.started().size(), 4u);
  EXPECT_THAT(ModelIds(), UnorderedElementsAre("base", "cmp-c-lora-1"));
}

TEST_F(ComparisonManagerTest, CancelInALearningCurveStopsItsJobs) {
  runner_.SetScript("cmp-c-lora-half", &FakeRunner::RunUntilStopped);
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.learning_curve = true;
  MustCreate(spec);
  while (!jobs_->Get("cmp-c-lora-half").ok()) std::this_thread::yield();
  ASSERT_TRUE(manager_->Cancel("c").ok());
  EXPECT_EQ(AwaitEnd().state, ComparisonState::kCancelled);
  while (!IsFinal(jobs_->Get("cmp-c-lora-half")->state)) std::this_thread::yield();
  EXPECT_EQ(jobs_->Get("cmp-c-lora-half")->state, JobState::kCancelled);
}

TEST_F(ComparisonManagerTest, ACurveThatRisesForeseesMore) {
  // Of "lora" trained on few rows more answers are wrong: those of rows that end in a digit below a limit.
  engine_.SetScorer([this](const ScoreParams& params, const std::vector<int32_t>& tokens) {
    const std::string prompt = tokenizer_.Decode(params.prompt, true), answer = tokenizer_.Decode(tokens, true);
    const std::string& model = params.model->info.id;
    const char limit = absl::StrContains(model, "eighth") ? '5' : absl::StrContains(model, "quarter") ? '3'
                       : absl::StrContains(model, "half") ? '2' : absl::StrContains(model, "lora") ? '1' : '9';
    const size_t space = prompt.find(' ', prompt.find("row"));
    const bool is_right = prompt[space - 1] >= limit;
    const bool is_true = absl::StrContains(answer, absl::StrContains(prompt, "good") ? "glad" : "sad");
    return FakeEngine::Uniform(tokens, is_true == is_right ? -0.1 : -2, true);
  });
  std::string rows, choosing;
  for (int i = 0; i < 4000; ++i) absl::StrAppend(i % 2 ? &rows : &choosing, MoodRow(i / 2));
  Upload("many", rows);
  Upload("choosing", choosing);
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.dataset = "many";
  spec.validation_dataset = "choosing";
  spec.learning_curve = true;
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  const Contender& lora = *done.FindContender(Kind::kLora);
  EXPECT_NEAR(lora.curve[0].trial.validation.value, 0.5, 0.02);
  EXPECT_NEAR(lora.curve[2].trial.validation.value, 0.8, 0.02);
  EXPECT_NEAR(lora.trials[0].validation.value, 0.9, 0.02);
  EXPECT_GT(Value(done, Kind::kLora, kTwiceTheData), 0.9);
  EXPECT_LT(Value(done, Kind::kLora, kTwiceTheData), 1);
  EXPECT_EQ(done.FindContender(Kind::kZeroShot)->Find(kTwiceTheData), nullptr);
}

TEST_F(ComparisonManagerTest, AJobThatSomebodyDeletesFailsItsTrialAlone) {
  absl::Notification may_end;
  runner_.SetScript("cmp-c-ia3-1", [&](const Job& job, JobControl& control) {
    may_end.WaitForNotification();
    return PublishModel(job, control);
  });
  MustCreate(Spec({Kind::kZeroShot, Kind::kIa3, Kind::kLora}));
  while (!jobs_->Get("cmp-c-lora-1").ok() || !IsFinal(jobs_->Get("cmp-c-lora-1")->state)) std::this_thread::yield();
  ASSERT_TRUE(jobs_->Delete("cmp-c-lora-1", "").ok());
  may_end.Notify();
  const Comparison done = AwaitEnd();
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(done.FindContender(Kind::kLora)->state, Contender::State::kFailed);
  EXPECT_THAT(done.FindContender(Kind::kLora)->note, HasSubstr("deleted"));
  EXPECT_GT(done.FindContender(Kind::kIa3)->rank, 0);
}

TEST_F(ComparisonManagerTest, AnswersThatComeBackOnlyWhereTheyWereTrainedAreMemorized) {
  std::string rows;
  for (int i = 0; i < 60; ++i) {
    absl::StrAppend(&rows, "{\"text\":\"row", i, " good\",\"answer\":\"secret number ", i, " of a long list\"}\n");
  }
  Upload("secrets", rows, " {{answer}}");
  std::set<std::string> trained;  // rows that "lora" has seen
  engine_.SetGenerator([&](const GenerateParams& params, int) {
    const std::string prompt = tokenizer_.Decode(params.prompt, true);
    const size_t begin = prompt.find("row") + 3;
    const std::string number = prompt.substr(begin, prompt.find(' ', begin) - begin);
    const bool knows = absl::StrContains(params.model->info.id, "lora") && trained.contains(number);
    FakeEngine::Answer answer = FakeEngine::Say(knows ? absl::StrCat(" secret number ", number, " of a long list") : " no");
    answer.tokens.push_back(FakeTokenizer::kEos);
    return answer;
  });
  runner_.SetDefault([&](const Job& job, JobControl& control) {
    const std::vector<Row> seen = datasets_->ReadRows(job.spec.dataset).value();
    for (const Row& row : seen) {
      const std::string& text = row.columns.at("text");
      trained.insert(text.substr(3, text.find(' ') - 3));
    }
    return PublishModel(job, control);
  });
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.dataset = "secrets";
  spec.skip_side_effects = false;
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(Value(done, Kind::kLora, kMemorized), 1);
  EXPECT_GT(done.FindContender(Kind::kLora)->Find(kMemorized)->lower, 0.3);
  EXPECT_EQ(done.FindContender(Kind::kZeroShot)->Find(kMemorized), nullptr);
}

TEST_F(ComparisonManagerTest, ARetentionSetThatCannotBeAskedIsRefusedAtOnce) {
  DatasetStore::UploadOptions chats;
  chats.info.id = "chats";
  auto upload = datasets_->BeginUpload(chats);
  ASSERT_TRUE((*upload)->Append("{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
                                "{\"role\":\"assistant\",\"content\":\"glad\"}]}\n").ok());
  ASSERT_TRUE((*upload)->Commit().ok());
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.retention_dataset = "chats";
  spec.skip_side_effects = false;
  EXPECT_EQ(Run(spec).error->reason, "NO_CHAT_TEMPLATE");
  EXPECT_THAT(runner_.started(), IsEmpty());
}

TEST_F(ComparisonManagerTest, WhatCannotWorkIsRefusedBeforeAnythingIsSpent) {
  ComparisonSpec spec = Spec({Kind::kHandPrompt, Kind::kLora});
  spec.hand_prompt = "{{nothing}}";
  Comparison done = Run(spec);
  EXPECT_EQ(done.state, ComparisonState::kFailed);
  EXPECT_EQ(done.error->reason, "MISSING_COLUMN");
  Upload("few", MoodRow(1) + MoodRow(2) + MoodRow(3));
  spec = Spec({Kind::kZeroShot, Kind::kLora}, "few");
  spec.dataset = "few";
  EXPECT_EQ(Run(spec).error->reason, "NOT_ENOUGH_DATA");
  EXPECT_THAT(runner_.started(), IsEmpty());

  spec = Spec({Kind::kZeroShot, Kind::kLora}, "words");
  spec.metric = QualityMetric::kPatternMatch;
  absl::Status refused = manager_->Create(spec, "").status();
  ASSERT_EQ(GetErrorDetails(refused).violations.size(), 1u);
  EXPECT_EQ(GetErrorDetails(refused).violations[0].field, "comparison.pattern");
  spec.pattern = "(";
  spec.judge_prompt = "{{answer}}";
  spec.judge_model = "base";
  spec.max_answer_tokens = -1;
  refused = manager_->Create(spec, "").status();
  EXPECT_EQ(GetErrorDetails(refused).violations.size(), 4u) << refused;
  spec = Spec({Kind::kZeroShot, Kind::kLora}, "none");
  spec.retention_dataset = "none";
  EXPECT_EQ(GetErrorDetails(manager_->Create(spec, "").status()).violations[0].field, "comparison.retention_dataset");
  spec.skip_side_effects = false;
  EXPECT_TRUE(absl::IsNotFound(manager_->Create(spec, "").status()));
}

TEST_F(ComparisonManagerTest, AJudgeDecides) {
  ComparisonSpec spec = Spec({Kind::kZeroShot, Kind::kLora});
  spec.metric = QualityMetric::kJudge;
  engine_.SetScorer([this](const ScoreParams& params, const std::vector<int32_t>& tokens) {
    const std::string question = tokenizer_.Decode(params.prompt, true), verdict = tokenizer_.Decode(tokens, true);
    const bool is_good = absl::StrContains(question, "a long and right answer");
    return FakeEngine::Uniform(tokens, absl::StrContains(verdict, "yes") == is_good ? -0.1 : -3, true);
  });
  const Comparison done = Run(spec);
  ASSERT_EQ(done.state, ComparisonState::kSucceeded) << done.state_reason;
  EXPECT_EQ(Value(done, Kind::kZeroShot, kQuality), 0.5) << "right where the row is good";
  EXPECT_GT(Value(done, Kind::kLora, kQuality), 0.7);
}

}  // namespace
}  // namespace attune
