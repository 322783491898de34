#include "server/comparison/side_effects.h"

#include <gtest/gtest.h>

#include <set>

#include "server/comparison/measure_names.h"

namespace attune {
namespace {

Measure Share(double value, double lower, double upper) { return {"quality", value, lower, upper, 100}; }

TEST(SideEffectsTest, ForgettingIsWhatWasKnownBefore) {
  std::vector<double> base(400, 1), tuned(400, 1);
  EXPECT_EQ(LossOf(kForgetting, base, tuned).value, 0);
  EXPECT_EQ(LossOf(kForgetting, base, tuned).upper, 0);
  for (int i = 0; i < 100; ++i) tuned[i] = 0;
  for (int i = 350; i < 400; ++i) base[i] = 0;  // learned besides
  const Measure forgetting = LossOf(kForgetting, base, tuned);
  EXPECT_NEAR(forgetting.value, 0.125, 1e-9);
  EXPECT_GT(forgetting.lower, 0.05);
  EXPECT_LT(forgetting.upper, 0.2);
  EXPECT_EQ(forgetting.count, 400);
  EXPECT_NEAR(ProbeAccuracyOf(tuned).value, 0.75, 1e-9);
}

// Newcombe's interval by hand: of 0.9 (0.85 to 0.94) and 0.8 (0.7 to 0.88).
TEST(SideEffectsTest, OverfittingIsADifferenceOfShares) {
  const Measure gap = OverfittingOf(Share(0.9, 0.85, 0.94), Share(0.8, 0.7, 0.88));
  EXPECT_NEAR(gap.value, 0.1, 1e-9);
  EXPECT_NEAR(gap.lower, 0.1 - std::hypot(0.05, 0.08), 1e-9);
  EXPECT_NEAR(gap.upper, 0.1 + std::hypot(0.04, 0.1), 1e-9);
}

TEST(SideEffectsTest, VariantsChangeTheTextAndNothingElse) {
  EvalTask task;
  task.data.kind = DatasetKind::kPromptCompletion;
  task.data.prompt_template = "{{title}} {{text}}";
  task.data.completion_template = " {{label}}";
  for (int i = 0; i < 5; ++i) {
    Row row;
    row.columns = {{"title", "News"}, {"link", std::string(200, 'x')}, {"text", "The company does not want to sell its shares, they said."}, {"label", "a long label indeed, much longer than all of the text that is here to be read"}};
    task.rows.push_back(row);
  }
  const absl::StatusOr<Variants> made = MakeVariants(task, 3, 1);
  ASSERT_TRUE(made.ok()) << made.status();
  const Variants& variants = *made;
  ASSERT_EQ(variants.group.size(), variants.task.rows.size());
  EXPECT_EQ(std::set<int64_t>(variants.group.begin(), variants.group.end()), (std::set<int64_t>{0, 1, 2}));
  std::set<std::string> texts;
  for (size_t i = 0; i < variants.group.size(); ++i) {
    const Columns& columns = variants.task.rows[i].columns;
    if (variants.group[i] == 0) texts.insert(columns.at("text"));
    EXPECT_EQ(columns.at("title"), "News");
    EXPECT_EQ(columns.at("link").size(), 200u) << "what no prompt shows is no input";
    EXPECT_EQ(columns.at("label"), task.rows[0].columns.at("label"));
  }
  EXPECT_GE(texts.size(), 4u) << "the text itself and some paraphrases";

  Answers same, mixed;
  same.predicted.assign(variants.group.size(), "x");
  same.expected.assign(variants.group.size(), "x");
  mixed = same;
  EXPECT_EQ(ConsistencyOf(variants, same).value, 1);
  for (size_t i = 0; i < mixed.predicted.size(); i += 2) mixed.predicted[i] = "y";
  const Measure consistency = ConsistencyOf(variants, mixed);
  EXPECT_LT(consistency.value, 0.7);
  EXPECT_EQ(consistency.count, 3);
  EXPECT_EQ(consistency.name, kConsistency);
}

TEST(SideEffectsTest, AnswersAreNotedDownWhole) {
  Answers answers;
  answers.expected = {"a", "b"};
  answers.predicted = {"a", "\"\n"};
  answers.scores = {1, 0};
  answers.confidence = {0.25, 1};
  answers.prompt_tokens = 7.5;
  answers.loss = 0.125;
  const absl::StatusOr<Answers> back = AnswersFromJson(AnswersToJson(answers));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->predicted, answers.predicted);
  EXPECT_EQ(back->scores, answers.scores);
  EXPECT_EQ(back->prompt_tokens, 7.5);
  EXPECT_FALSE(AnswersFromJson("{").ok());
  const Measure quality = QualityOf(answers);
  EXPECT_EQ(quality.value, 0.5);
  EXPECT_EQ(quality.count, 2);
}

}  // namespace
}  // namespace attune
