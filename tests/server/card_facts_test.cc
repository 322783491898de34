#include "server/card_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/database.h"
#include "server/comparison/measure_names.h"
#include "tests/comparison/report_sample.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

class CardFactsTest : public ::testing::Test {
 protected:
  CardFactsTest()
      : database_(*Database::Open(":memory:")),
        jobs_(*JobStore::Open(database_.get(), &clock_)),
        comparisons_(*ComparisonStore::Open(database_.get(), &clock_)) {}

  // A job of the comparison that report_sample.h makes up.
  ModelInfo Tuned(const std::string& model, MethodSpec method, const std::string& comparison = "r8-topics") {
    Job job;
    job.spec.id = absl::StrCat("job-", model);
    job.spec.base_model = "base";
    job.spec.dataset = "cmp-r8-train";
    job.spec.validation_dataset = "cmp-r8-validation";
    job.spec.tuned_model_id = model;
    job.spec.method = std::move(method);
    if (!comparison.empty()) job.spec.labels = {{"comparison", comparison}};
    job.resolved_hyperparameters = Hyperparameters{.epochs = 2, .batch_size = 16, .learning_rate = 2e-4, .seed = 42};
    job.data_report = DataReport{.train_examples = 900, .validation_examples = 100, .truncated_examples = 3};
    EXPECT_TRUE(jobs_->Create(job, "").ok());
    JobEvent progress;
    progress.type = JobEvent::Type::kProgress;
    progress.progress = JobProgress{.step = 3, .peak_memory_bytes = 2'500'000'000};
    EXPECT_TRUE(jobs_->AppendEvent(job.spec.id, progress, {94, 28'200}).ok());
    ModelInfo info;
    info.id = model;
    info.kind = ModelKind::kLora;
    info.tuning_job = job.spec.id;
    return info;
  }

  void Compare(const Comparison& wanted) {
    ASSERT_TRUE(comparisons_->Create(wanted.spec, "").ok());
    ASSERT_TRUE(comparisons_->Update(wanted.spec.id, [&](Comparison& comparison) {
      const int64_t version = comparison.version, position = comparison.position;
      comparison = wanted;
      comparison.version = version;
      comparison.position = position;
      return absl::OkStatus();
    }).ok());
  }

  ModelCardFacts Facts(const ModelInfo& info) { return CardFacts(info, *jobs_, *comparisons_); }

  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<ComparisonStore> comparisons_;
};

TEST_F(CardFactsTest, OfTheJob) {
  const ModelCardFacts facts = Facts(Tuned("mine", LoraSpec{.rank = 8, .dropout = 0.1}, ""));
  EXPECT_EQ(facts.dataset, "cmp-r8-train");
  EXPECT_EQ(facts.train_examples, 900);
  EXPECT_EQ(facts.cut_examples, 3);
  EXPECT_THAT(facts.settings, Contains(Pair("rank", "8")));
  EXPECT_THAT(facts.settings, Contains(Pair("dropout", "0.1")));
  EXPECT_THAT(facts.settings, Contains(Pair("learning rate", "0.0002")));
  EXPECT_THAT(facts.cost, Contains(Pair("time in steps and evaluations", "1 min 34 s")));
  EXPECT_THAT(facts.cost, Contains(Pair("energy of the device in that time", "28.2 kJ")));
  EXPECT_THAT(facts.cost, Contains(Pair("most memory at once, beside the base model", "2.50 GB")));
  EXPECT_FALSE(facts.compared.has_value());
  EXPECT_EQ(facts.forgetting, "");
}

TEST_F(CardFactsTest, OfTheComparisonThatMadeIt) {
  Compare(SampleComparison());
  const ModelCardFacts facts = Facts(Tuned("r8-lora", LoraSpec()));
  ASSERT_TRUE(facts.compared.has_value());
  EXPECT_EQ(facts.compared->id, "r8-topics");
  EXPECT_EQ(facts.compared->standing,
            "Rank 2 of 9, the winner, not told apart from the best, by right labels: the likeliest choice is the expected "
            "one; on 2,189 test examples that nothing was tuned on");
  EXPECT_THAT(facts.compared->verdict, HasSubstr("LoRA answers 97.8%"));
  const auto has_quality = [](const ModelCardFacts::Figure& figure) {
    return figure.title == "Quality" && figure.value == "97.8%" && figure.interval == "97.2–98.4%" && !figure.meaning.empty();
  };
  EXPECT_THAT(facts.compared->figures, Contains(::testing::Truly(has_quality)));
  EXPECT_THAT(facts.forgetting, HasSubstr("1.3 points lost against the base model on general questions (95% interval"));
  EXPECT_THAT(facts.forgetting, Not(HasSubstr("not to be forgotten")));
}

TEST_F(CardFactsTest, AModelThatTheTestPartNeverSawHasNoFiguresOfIt) {
  Comparison comparison = SampleComparison();
  Compare(comparison);
  EXPECT_FALSE(Facts(Tuned("cmp-other-setting", LoraSpec())).compared.has_value());
}

TEST_F(CardFactsTest, AComparisonThatHasNotSucceededTellsNothing) {
  Comparison comparison = SampleComparison();
  comparison.state = ComparisonState::kRunning;
  Compare(comparison);
  EXPECT_FALSE(Facts(Tuned("r8-lora", LoraSpec())).compared.has_value());
}

TEST_F(CardFactsTest, WhatIsGoneIsLeftOut) {
  EXPECT_FALSE(Facts(Tuned("r8-lora", LoraSpec())).compared.has_value());  // the comparison
  ModelInfo info;
  info.tuning_job = "gone";
  EXPECT_EQ(Facts(info).dataset, "");
  info.tuning_job = "";  // imported
  EXPECT_THAT(Facts(info).settings, IsEmpty());
}

TEST_F(CardFactsTest, OfATextPromptThereIsNothingToForget) {
  Compare(SampleComparison());
  const ModelCardFacts facts = Facts(Tuned("r8-text_prompt", TextPromptSpec{.candidates = 12}));
  EXPECT_THAT(facts.settings, Contains(Pair("candidates", "12")));
  EXPECT_TRUE(facts.compared.has_value());
  EXPECT_EQ(facts.forgetting, "");
}

}  // namespace
}  // namespace attune
