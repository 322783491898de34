#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/advice/curve_probe.h"
#include "server/advice/few_shot.h"
#include "server/advice/probe_base.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Row TextRow(const std::string& text, const std::string& label) {
  Row row;
  row.columns = {{"text", text}, {"label", label}};
  return row;
}

// Rows of two labels, "a" and "b", in turn.
EvalTask Letters(int rows) {
  EvalTask task;
  task.data.kind = DatasetKind::kPromptCompletion;
  task.data.prompt_template = "T: {{text}}\nL:";
  task.data.completion_template = "{{label}}";
  task.choices = {"a", "b"};
  for (int i = 0; i < rows; ++i) task.rows.push_back(TextRow(absl::StrCat("row", i), i % 2 ? "b" : "a"));
  return task;
}

class AdviceProbeTest : public ::testing::Test {
 protected:
  AdviceProbeTest() {
    auto model = std::make_shared<ServedModel>();
    model->info.id = "base";
    model->tokenizer_view = &tokenizer_;
    model->context = 512;
    base_ = model;
  }

  Candidates Shown() {
    Candidates candidates;
    for (int i = 0; i < 12; ++i) {
      const std::string label = i % 2 ? "b" : "a", text = absl::StrCat("shown", i);
      candidates.rows.push_back(TextRow(text, label));
      candidates.described.push_back({label, text});
      candidates.tokens.push_back(16);
    }
    return candidates;
  }

  absl::StatusOr<BaseProbe> Probe(
      const EvalTask& task, const GoOn& go_on = [](int64_t, int64_t) { return true; }) {
    return ProbeBase(&engine_, base_, task, Shown(), go_on, [&](const std::string& what) { said_.push_back(what); });
  }

  std::string Text(const std::vector<int32_t>& tokens) { return tokenizer_.Decode(tokens, true); }

  FakeTokenizer tokenizer_{/*add_bos=*/false};
  FakeEngine engine_;
  std::shared_ptr<const ServedModel> base_;
  std::vector<std::string> said_;
};

TEST_F(AdviceProbeTest, MeasuresWithAndWithoutExamplesAndHowFarTheTaskIs) {
  // Without examples "a" is always the likelier; with them the model is right. Its own text costs it 0.5 a token, right
  // answers 3.
  engine_.SetGenerator(
      [](const GenerateParams& params, int) { return FakeEngine::Say(std::string(params.max_tokens, 'o')); });
  engine_.SetScorer([&](const ScoreParams& params, const std::vector<int32_t>& tokens) {
    if (tokens[0] == 'o') return FakeEngine::Uniform(tokens, -0.5, true);
    const std::string prompt = Text(params.prompt);
    if (!absl::StrContains(prompt, "shown")) return FakeEngine::Uniform(tokens, tokens[0] == 'a' ? -2.5 : -3.5, false);
    const bool is_odd = (prompt[prompt.size() - 4] - '0') % 2;
    return FakeEngine::Uniform(tokens, (tokens[0] == 'b') == is_odd ? -0.1 : -4, false);
  });
  const auto probe = Probe(Letters(40));
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_DOUBLE_EQ(probe->zero_shot.value, 0.5);
  EXPECT_EQ(probe->zero_shot.count, 40);
  EXPECT_NEAR(probe->zero_shot.lower, 0.352, 0.001);
  EXPECT_DOUBLE_EQ(probe->few_shot.value, 1);
  EXPECT_EQ(probe->shots, kShots);
  EXPECT_NEAR(probe->answer_loss, 3, 1e-6);
  EXPECT_NEAR(probe->own_loss, 0.5, 1e-6);
  EXPECT_NEAR(probe->task_distance(), 2.5, 1e-6);
  EXPECT_GT(probe->seconds_per_row, 0);
  EXPECT_EQ(said_.size(), 3u);
  const std::vector<Finding> findings = FindingsOf(*probe);
  EXPECT_EQ(FindFinding(findings, kZeroShotQuality)->count, 40);
  EXPECT_THAT(FindFinding(findings, kFewShotQuality)->text, HasSubstr("8 examples"));
  EXPECT_THAT(FindFinding(findings, kTaskDistance)->text, HasSubstr("far from"));
}

TEST_F(AdviceProbeTest, WithoutRoomThereAreNoExamples) {
  auto small = std::make_shared<ServedModel>(*base_);
  small->context = 24;
  base_ = small;
  const auto probe = Probe(Letters(6));
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ(probe->shots, 0);
  EXPECT_EQ(FindFinding(FindingsOf(*probe), kFewShotQuality), nullptr);
}

TEST_F(AdviceProbeTest, StopsWhenTold) {
  engine_.HoldScores();
  EXPECT_TRUE(absl::IsCancelled(Probe(Letters(6), [](int64_t, int64_t) { return false; }).status()));
}

TEST_F(AdviceProbeTest, EmbedsManyAtATimeInOrderAndWaitsForAFullQueue) {
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 1; i <= 40; ++i) prompts.emplace_back(i, 'x');
  engine_.RefuseNext(1);
  const auto features = EmbedPrompts(&engine_, base_, prompts, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(features.ok()) << features.status();
  ASSERT_EQ(features->size(), 80u);
  for (int i = 0; i < 40; ++i) EXPECT_EQ((*features)[2 * i], i + 1) << "the fake's first number is the length";
  EXPECT_LE(engine_.last_embed().inputs.size(), 16u);
}

// ---- few-shot

TEST(FewShotTest, ExamplesCoverTheLabelsAndStayInTheirRoom) {
  const std::vector<SplitRow> rows = {{"x", ""}, {"x", ""}, {"x", ""}, {"x", ""}, {"y", ""}, {"y", ""}, {"z", ""}};
  const std::vector<double> tokens = {40, 10, 20, 30, 7, 8, 500};
  // Of "x", the quarter is row 2; "z" has no room.
  EXPECT_THAT(ChooseShots(rows, true, tokens, 4, 100), ElementsAre(5, 3, 4, 2));
  EXPECT_THAT(ChooseShots(rows, true, tokens, 3, 1000), ElementsAre(6, 4, 2));
  EXPECT_THAT(ChooseShots(rows, true, tokens, 2, 5), IsEmpty());
  EXPECT_EQ(ChooseShots(rows, true, tokens, 100, 1e6).size(), 7u);
  EXPECT_EQ(ChooseShots(rows, false, tokens, 3, 1e6).size(), 3u);
}

TEST(FewShotTest, ExamplesStandBeforeThePromptAsTheyAre) {
  const EvalTask task = Letters(1);
  const auto shown = WithShots(task, {TextRow("{{text}} {{x", "a"), TextRow("two", "b")});
  ASSERT_TRUE(shown.ok()) << shown.status();
  const auto prompt = PromptTemplate::Parse(shown->data.prompt_template);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(*prompt->Render({{"text", "now"}}), "T: {{text}} {{x\nL:a\n\nT: two\nL:b\n\nT: now\nL:");
}

TEST(FewShotTest, InAChatExamplesAreTurnsAfterTheSystems) {
  EvalTask task;
  task.data.kind = DatasetKind::kChat;
  Row row, shot;
  row.messages = {{"system", "s"}, {"user", "u"}, {"assistant", "a"}};
  shot.messages = {{"system", "other"}, {"user", "u1"}, {"assistant", "a1"}};
  task.rows = {row};
  const auto shown = WithShots(task, {shot});
  ASSERT_TRUE(shown.ok());
  std::vector<std::string> contents;
  for (const ChatTurn& turn : shown->rows[0].messages) contents.push_back(turn.content);
  EXPECT_THAT(contents, ElementsAre("s", "u1", "a1", "u", "a"));
}

// ---- the learning curve's plan

TEST(CurvePlanTest, TakesAsManyStepsAsFitTheTime) {
  const CurvePlan plan = PlanCurve(400, 0.05, 2, 60);
  EXPECT_EQ(plan.steps, 45) << "54 s for three times 8 rows a step";
  EXPECT_THAT(plan.sizes, ElementsAre(90, 180, 360)) << "the last job reads its rows once";
  EXPECT_NEAR(plan.seconds, 60, 1e-9);
  EXPECT_THAT(PlanCurve(100, 0.05, 2, 60).sizes, ElementsAre(25, 50, 100));
  EXPECT_EQ(PlanCurve(100'000, 1e-6, 0, 60).steps, 60);
  EXPECT_EQ(PlanCurve(42, 1e-6, 0, 60).steps, 21) << "four times all rows, eight a step";
}

TEST(CurvePlanTest, WithoutTimeOrRowsThereIsNone) {
  const CurvePlan slow = PlanCurve(400, 0.5, 2, 60);
  EXPECT_THAT(slow.sizes, IsEmpty());
  EXPECT_NEAR(slow.seconds, 3 * (2 + 16 * 8 * 0.5), 1e-9) << "what the shortest would take";
  EXPECT_THAT(PlanCurve(31, 0.001, 0, 60).sizes, IsEmpty());
  EXPECT_THAT(PlanCurve(400, 0.001, 20, 59).sizes, IsEmpty()) << "asking takes all of it";
}

TEST(CurvePlanTest, PointsAreToldWithWhereTheyLead) {
  EXPECT_TRUE(FindingsOf(std::vector<CurvePoint>(), 100).empty());
  const std::vector<Finding> findings = FindingsOf({{50, 0.5, 0.02}, {100, 0.7, 0.02}, {200, 0.8, 0.02}}, 400);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].name, kLearningCurve);
  EXPECT_GT(findings[0].value, 0.8);
  EXPECT_THAT(findings[0].text,
              HasSubstr("0.50 with 50 rows, 0.70 with 100 rows, 0.80 with 200 rows; the curve leads to"));
}

}  // namespace
}  // namespace attune
