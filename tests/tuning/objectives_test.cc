// Objectives beside the likelihood of answers, in whole jobs over the tiny model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "server/tuning/teacher.h"
#include "tests/tuning/runner_fixture.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ObjectivesTest : public RunnerFixture {
 protected:
  void SetUp() override {
    RunnerFixture::SetUp();
    std::string rows;
    for (int i = 0; i < 24; ++i) {
      rows += absl::StrCat(R"({"prompt": "row )", i, R"( says", "chosen": " the )", i % 5, R"(", "rejected": " hell )",
                           i % 3, "\"}\n");
    }
    Upload("pairs", rows);
  }

  static Job Dpo(const std::string& id, MethodSpec method, int64_t steps = 4) {
    Job job = MakeJob(id, std::move(method));
    job.spec.dataset = "pairs";
    job.spec.dpo = DpoSpec{.beta = 0.5};
    job.spec.hyperparameters.max_steps = steps;
    return job;
  }

  static LoraSpec Lora() { return {.rank = 4, .dropout = 0}; }
  static LoraSpec Saved() {
    LoraSpec spec = Lora();
    spec.modules_to_save = {TargetModule::kEmbedTokens, TargetModule::kLmHead};
    return spec;
  }
  static LoraSpec Adapted() {
    LoraSpec spec = Lora();
    spec.target_modules = {TargetModule::kVProj, TargetModule::kEmbedTokens, TargetModule::kLmHead};
    return spec;
  }

  std::string Adapter(const std::string& model) {
    return ReadFile(absl::StrCat(registry_->Directory(model), "/adapter_model.safetensors")).value();
  }
};

TEST_F(ObjectivesTest, PreferencesAreLearned) {
  for (const auto& [id, method] :
       {std::pair<const char*, MethodSpec>("lora", Lora()), {"full", FullSpec{}}, {"ia3", Ia3Spec{}}, {"saved", Saved()}, {"adapted", Adapted()}}) {
    Job job = Dpo(id, method, 20);
    if (std::holds_alternative<Ia3Spec>(method)) job.spec.hyperparameters.learning_rate = 0.1;
    const absl::Status status = Run(job);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_LT(control_->progress.train_loss, 0.5) << id;
    EXPECT_GT(control_->progress.reward_margin, 0.5) << id;
    EXPECT_GE(control_->progress.preference_accuracy, 0.8) << id;
    EXPECT_GT(control_->progress.validation_reward_margin, 0) << id;
    EXPECT_GT(control_->progress.validation_preference_accuracy, 0.5) << id;
    EXPECT_EQ(control_->report.train_examples + control_->report.validation_examples, 24) << "pairs";
    const ModelInfo info = registry_->Get(absl::StrCat(id, "-model")).value();
    EXPECT_EQ(info.dataset_kind, DatasetKind::kPromptCompletion) << "it serves as if tuned on completions";
    EXPECT_EQ(info.metrics.at("validation_preference_accuracy"), control_->progress.validation_preference_accuracy);
  }
}

// The loss of a model that is its own reference is log 2.
TEST_F(ObjectivesTest, TheReferenceIsTheBaseModelOrTheStart) {
  ASSERT_TRUE(Run(Dpo("base", Lora(), 1)).ok());
  EXPECT_NEAR(control_->progress.train_loss, std::log(2), 1e-6);
  for (const auto& [id, method] : {std::pair("saved", Saved()), {"adapted", Adapted()}}) {
    ASSERT_TRUE(Run(Dpo(id, method, 1)).ok());
    EXPECT_NEAR(control_->progress.train_loss, std::log(2), 1e-6) << id;
    Job next = Dpo(absl::StrCat("next-", id), method, 1);
    next.spec.start_from = StartPoint{.model = absl::StrCat(id, "-model")};
    ASSERT_TRUE(Run(next).ok());
    EXPECT_NEAR(control_->progress.train_loss, std::log(2), 1e-6) << "the start's own tables are the reference's";
  }
  ASSERT_TRUE(Run(Dpo("prompt", SoftPromptSpec{.num_virtual_tokens = 3}, 1)).ok());
  EXPECT_GT(std::abs(control_->progress.train_loss - std::log(2)), 1e-3)
      << "a soft prompt changes what the base model says";
  ASSERT_TRUE(Run(MakeJob("first", SoftPromptSpec{.num_virtual_tokens = 3})).ok());
  Job next = Dpo("next", SoftPromptSpec{}, 1);
  next.spec.start_from = StartPoint{.model = "first-model"};
  ASSERT_TRUE(Run(next).ok());
  EXPECT_NEAR(control_->progress.train_loss, std::log(2), 1e-6);
}

TEST_F(ObjectivesTest, ResumingIsExact) {
  ASSERT_TRUE(Run(MakeJob("first", Lora())).ok());
  for (int kind = 0; kind < 4; ++kind) {
    Job straight = kind == 2 ? MakeJob("straight2", Lora()) : Dpo(absl::StrCat("straight", kind), kind == 3 ? Saved() : Lora());
    if (kind == 1) straight.spec.start_from = StartPoint{.model = "first-model"};
    if (kind == 2) straight.spec.distillation = DistillationSpec{.teacher = "first-model", .top_k = 4};
    straight.spec.hyperparameters.neftune_noise_alpha = 5;
    Job stopped = straight;
    stopped.spec.id = absl::StrCat("stopped", kind);
    stopped.spec.tuned_model_id = stopped.spec.id + "-model";
    ASSERT_TRUE(Run(straight).ok());
    FakeControl control;
    control.StopAfter(2, StopRequest::kPause);
    ASSERT_EQ(runner_->Run(stopped, control)->kind, JobOutcome::Kind::kStopped);
    control.StopAfter(0, StopRequest::kNone);
    ASSERT_EQ(runner_->Run(stopped, control)->kind, JobOutcome::Kind::kSucceeded);
    EXPECT_EQ(Adapter(stopped.spec.tuned_model_id), Adapter(straight.spec.tuned_model_id)) << kind;
  }
}

TEST_F(ObjectivesTest, LabelSmoothingBoundsWhatIsLearned) {
  Job job = Dpo("smooth", Lora(), 1);
  job.spec.dpo->label_smoothing = 0.25;
  ASSERT_TRUE(Run(job).ok());
  EXPECT_NEAR(control_->progress.train_loss, std::log(2), 1e-6);
  const double first = control_->progress.gradient_norm;
  ASSERT_TRUE(Run(Dpo("sharp", Lora(), 1)).ok());
  EXPECT_NEAR(first, control_->progress.gradient_norm / 2, 1e-4 * first) << "where both answers are as likely";
}

TEST_F(ObjectivesTest, DataMustFitTheObjective) {
  JobSpec spec = Dpo("a", Lora()).spec;
  spec.dataset = "data";
  EXPECT_THAT(Refusal(spec), StartsWith("tuning_job.dataset must hold rows of prompt, chosen and rejected"));
  spec = MakeJob("b", Lora()).spec;
  spec.dataset = "pairs";
  EXPECT_THAT(Refusal(spec), StartsWith("PREFERENCE_DATA"));
}

TEST_F(ObjectivesTest, AStudentComesToSayWhatItsTeacherDoes) {
  PublishFullWeights("other", "gguf", 7);
  auto distill = [&](const std::string& id, double weight, int64_t steps) {
    Job job = MakeJob(id, FullSpec{});
    job.spec.distillation = DistillationSpec{.teacher = "other", .top_k = 8, .weight = weight};
    job.spec.hyperparameters.max_steps = steps;
    const absl::Status status = Run(job);
    EXPECT_TRUE(status.ok()) << status;
    return control_->progress.train_loss;
  };
  const double before = distill("before", 1, 1), after = distill("after", 1, 60);
  EXPECT_GT(after, 0) << "a divergence";
  EXPECT_LT(after, 0.3 * before);
  // Without the teacher's part it is the usual loss.
  const double hard = distill("hard", 0, 1);
  ASSERT_TRUE(Run([&] {
                Job job = MakeJob("usual", FullSpec{});
                job.spec.hyperparameters.max_steps = 1;
                return job;
              }())
                  .ok());
  EXPECT_NEAR(hard, control_->progress.train_loss, 1e-5 * hard);
}

// Its own teacher teaches nothing, whatever share of its tokens is looked at.
TEST_F(ObjectivesTest, TheDivergenceFromItselfIsZero) {
  for (int32_t top_k : {1, 16, 1024}) {
    Job job = MakeJob(absl::StrCat("self-", top_k), Lora());
    job.spec.distillation = DistillationSpec{.teacher = "gguf", .top_k = top_k, .temperature = 2, .weight = 1};
    job.spec.hyperparameters.max_steps = 1;
    ASSERT_TRUE(Run(job).ok());
    EXPECT_NEAR(control_->progress.train_loss, 0, 1e-4) << top_k;
  }
}

TEST_F(ObjectivesTest, ATeacherMustBeThereAndReadTheSameTokens) {
  JobSpec spec = MakeJob("a", Lora()).spec;
  spec.distillation = DistillationSpec{.teacher = "nobody"};
  EXPECT_THAT(Refusal(spec), StartsWith("MODEL_NOT_FOUND"));
  ServedModel prompt;
  prompt.info.kind = ModelKind::kTextPrompt;
  const auto base = residency_->Acquire("gguf").value();
  EXPECT_THAT(std::string(CheckTeacher(prompt, base->tokenizer()).message()), HasSubstr("text prompt"));
}

TEST_F(ObjectivesTest, LongTextsAreCutOrSplitAndPackedWithoutPadding) {
  std::string rows;
  int64_t bytes = 0;
  for (int i = 0; i < 20; ++i) {
    const std::string text = absl::StrCat("text ", i, std::string(3 * i, 'x'), " ends");
    bytes += static_cast<int64_t>(text.size());
    rows += absl::StrCat("{\"text\": \"", text, "\"}\n");
  }
  Upload("texts", rows);
  Job cut = MakeJob("cut", FullSpec{}), split = MakeJob("split", FullSpec{});
  for (Job* job : {&cut, &split}) {
    job->spec.dataset = "texts";
    job->spec.data.max_sequence_tokens = 16;
    job->spec.data.validation_fraction = -1;
    job->spec.hyperparameters.batch_size = 64;
    job->spec.hyperparameters.max_steps = 30;
  }
  split.spec.data.split_long_texts = true;
  ASSERT_TRUE(Run(cut).ok());
  const DataReport lost = control_->report;
  const double cut_loss = control_->progress.train_loss;
  EXPECT_GT(lost.truncated_examples, 10);
  EXPECT_LT(cut_loss, 4) << "nats a token, of some 5.5 at the start";
  ASSERT_TRUE(Run(split).ok());
  const DataReport all = control_->report;
  EXPECT_EQ(all.truncated_examples, 0);
  EXPECT_GT(all.train_examples, 40);
  EXPECT_EQ(registry_->Get("split-model")->dataset_kind, DatasetKind::kText);
  // Every byte and every end token is predicted once, but for the first of each text (the tokenizer has no begin token)
  // and bytes that it merges.
  EXPECT_GT(all.train_loss_tokens, lost.train_loss_tokens);
  EXPECT_LE(all.train_loss_tokens, bytes + 20);
  EXPECT_GE(all.train_loss_tokens, bytes - 20);
}

// Parts of one text in training and validation would make the latter too good.
TEST_F(ObjectivesTest, TextsAreHeldOutWhole) {
  std::string rows;
  for (int i = 0; i < 10; ++i)
    rows += absl::StrCat("{\"text\": \"", std::string(60, static_cast<char>('a' + i)), "\"}\n");
  Upload("letters", rows);
  Job job = MakeJob("held", Lora());
  job.spec.dataset = "letters";
  job.spec.data.max_sequence_tokens = 16;
  job.spec.data.split_long_texts = true;
  job.spec.data.validation_fraction = 0.2;
  ASSERT_TRUE(Run(job).ok());
  // 61 tokens make four parts: 16, and 15 new ones each.
  EXPECT_EQ(control_->report.validation_examples, 8);
  EXPECT_EQ(control_->report.train_examples, 32);
}

}  // namespace
}  // namespace attune
