#include "server/comparison/answers.h"

#include <cmath>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/comparison/judge.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/model_paraphrases.h"
#include "server/comparison/side_effects.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

bool Always(int64_t, int64_t) { return true; }

class AnswersTest : public ::testing::Test {
 protected:
  AnswersTest() {
    model_ = std::make_shared<ServedModel>();
    model_->info.id = "m";
    model_->tokenizer_view = &tokenizer_;
    model_->context = 512;
  }

  // Rows "row0", "row1", ... with the answers given.
  EvalTask Ask(const std::vector<std::string>& expected) {
    EvalTask task;
    task.data.kind = DatasetKind::kPromptCompletion;
    task.data.prompt_template = "Q: {{text}} A:";
    task.data.completion_template = " {{answer}}";
    for (size_t i = 0; i < expected.size(); ++i) {
      task.rows.emplace_back();
      task.rows.back().columns = {{"text", absl::StrCat("row", i)}, {"answer", expected[i]}};
    }
    return task;
  }

  std::string Text(const std::vector<int32_t>& tokens) { return tokenizer_.Decode(tokens, true); }

  // Generates the answer of the row that the prompt names.
  void Say(std::vector<std::string> answers) {
    engine_.SetGenerator([this, answers](const GenerateParams& params, int) {
      const std::string prompt = Text(params.prompt);
      for (size_t i = 0; i < answers.size(); ++i) {
        if (absl::StrContains(prompt, absl::StrCat("row", i, " "))) return FakeEngine::Say(answers[i]);
      }
      return FakeEngine::Say("?");
    });
  }

  FakeTokenizer tokenizer_{/*add_bos=*/false};
  FakeEngine engine_;
  std::shared_ptr<ServedModel> model_;
};

TEST_F(AnswersTest, ScoresByTheTasksMetricAndRefusedRequestsAreRepeated) {
  EvalTask task = Ask({"red fox", "blue whale", "42"});
  task.scorer = std::make_shared<const AnswerScorer>(*AnswerScorer::Create(QualityMetric::kTokenF1, ""));
  task.max_answer_tokens = 9;
  Say({" red fox", " blue cat", " 41"});
  engine_.RefuseNext(2);
  const auto answers = attune::Ask(&engine_, model_, task, "", Always);
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_THAT(answers->scores, ElementsAre(1, 0.5, 0));
  EXPECT_THAT(answers->predicted, ElementsAre("red fox", "blue cat", "41"));
  EXPECT_EQ(engine_.last_generate().max_tokens, 9);
  const Measure quality = QualityOf(*answers);
  EXPECT_NEAR(quality.value, 0.5, 1e-9);
  EXPECT_EQ(quality.count, 3);

  const auto back = AnswersFromJson(AnswersToJson(*answers));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->scores, answers->scores);
  EXPECT_EQ(GetErrorDetails(AnswersFromJson("{\"expected\":[\"a\"]}").status()).reason, "CORRUPT_COMPARISON");
}

TEST_F(AnswersTest, SharesHaveWilsonIntervalsAndMeansBootstrapIntervals) {
  Answers answers;
  answers.scores = {1, 1, 1, 0};
  EXPECT_NEAR(QualityOf(answers).lower, 0.3006, 1e-3);
  answers.scores = {0.5, 0.5, 0.5, 0.5};
  EXPECT_EQ(QualityOf(answers).lower, 0.5);
  EXPECT_EQ(QualityOf(answers).upper, 0.5);
}

TEST_F(AnswersTest, AJudgeSeesQuestionReferenceAndAnswer) {
  EvalTask task = Ask({"red", "blue", "grey"});
  auto judge_model = std::make_shared<ServedModel>(*model_);
  judge_model->info.id = "judge";
  task.judge = std::make_shared<const Judge>(Judge{judge_model, "{{prompt}}|{{expected}}|{{answer}}?"});
  Say({" crimson", " blue", " green"});
  std::vector<std::string> seen;
  engine_.SetScorer([&](const ScoreParams& params, const std::vector<int32_t>& tokens) {
    if (params.model->info.id != "judge") return FakeEngine::Uniform(tokens, -1, true);
    const std::string question = Text(params.prompt), verdict = Text(tokens);
    if (verdict == " yes") seen.push_back(question);
    // Lenient: only the green answer is refused. "yes" has a token more than "no", so that sums are compared, not means.
    const bool approves = !absl::StrContains(question, "green");
    return FakeEngine::Uniform(tokens, (verdict == " yes") == approves ? -0.1 : -2, true);
  });
  const auto answers = attune::Ask(&engine_, model_, task, "", Always);
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_THAT(answers->scores, ElementsAre(1, 1, 0));
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_THAT(seen[0], HasSubstr("Q: row0 A:|red|crimson?"));
}

TEST_F(AnswersTest, ResampledIsHowOftenADrawRepeats) {
  EvalTask task = Ask({"a", "b"});
  task.choices = {"a", "b"};
  engine_.SetScorer([&](const ScoreParams&, const std::vector<int32_t>& tokens) {
    // Three to one for "a", whatever is asked.
    ScoredContinuation scored = FakeEngine::Uniform(tokens, -1, true);
    scored.logprob = absl::StrContains(Text(tokens), "a") ? std::log(0.75) : std::log(0.25);
    return scored;
  });
  const auto labels = ResampledBy(&engine_, model_, task, "", Always);
  ASSERT_TRUE(labels.ok()) << labels.status();
  EXPECT_NEAR(labels->value, 0.75 * 0.75 + 0.25 * 0.25, 1e-6);
  EXPECT_EQ(labels->count, 2);

  task.choices.clear();
  std::set<uint64_t> seeds;
  engine_.SetGenerator([&](const GenerateParams& params, int) {
    EXPECT_EQ(params.sampling.temperature, 1);
    seeds.insert(params.sampling.seed);
    const bool varies = absl::StrContains(Text(params.prompt), "row1 ");
    return FakeEngine::Say(varies ? absl::StrCat(" ", seeds.size()) : " same");
  });
  const auto generated = ResampledBy(&engine_, model_, task, "", Always);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_NEAR(generated->value, 0.5, 1e-9) << "one row never varies, the other always";
  EXPECT_EQ(seeds.size(), 6u);
}

TEST_F(AnswersTest, AModelsParaphrasesJoinTheirRowsGroups) {
  EXPECT_TRUE(MayParaphrase("the bank raised its rates today", "today the bank has put its rates up"));
  EXPECT_FALSE(MayParaphrase("the bank raised its rates today", "The bank raised its rates today!")) << "the same";
  EXPECT_FALSE(MayParaphrase("the bank raised its rates today", "I am a language model, how can I help?"));
  EXPECT_FALSE(MayParaphrase("the bank raised its rates today", "the bank"));
  EvalTask task = Ask({"x", "y"});
  task.rows[0].columns["text"] = "the bank raised its rates today";
  task.rows[1].columns["text"] = "shares of the oil company fell sharply";
  absl::StatusOr<Variants> variants = MakeVariants(task, 2, 1);
  ASSERT_TRUE(variants.ok()) << variants.status();
  const size_t before = variants->group.size();
  ASSERT_GT(before, 2u);
  engine_.SetGenerator([&](const GenerateParams& params, int) {
    const bool is_first = absl::StrContains(Text(params.prompt), "bank");
    return FakeEngine::Say(is_first ? " today the bank has put its rates up" : " No.");
  });
  ASSERT_TRUE(AddModelParaphrases(&engine_, model_, 1, Always, &*variants).ok());
  ASSERT_EQ(variants->group.size(), before + 1) << "what is no paraphrase is left out";
  EXPECT_EQ(variants->group.back(), 0);
  EXPECT_EQ(variants->task.rows.back().columns.at("text"), "today the bank has put its rates up");
  EXPECT_EQ(variants->task.rows.back().columns.at("answer"), "x");
}

TEST_F(AnswersTest, JudgesPromptsAreChecked) {
  EXPECT_TRUE(CheckJudgePrompt("").ok());
  EXPECT_TRUE(CheckJudgePrompt("Is {{answer}} polite?").ok());
  EXPECT_EQ(GetErrorDetails(CheckJudgePrompt("Is {{answr}} right?")).reason, "BAD_JUDGE_PROMPT");
  EXPECT_EQ(GetErrorDetails(CheckJudgePrompt("Is it right?")).reason, "BAD_JUDGE_PROMPT");
  EXPECT_EQ(GetErrorDetails(CheckJudgePrompt("{{")).reason, "BAD_TEMPLATE");
}

TEST_F(AnswersTest, RecitedIsALongAnswerThatComesBackWordForWord) {
  // A FakeTokenizer's token is a byte. The first 50 of an answer count.
  const EvalTask task = Ask({std::string(200, 'b'), std::string(200, 'c'), "short"});
  engine_.SetGenerator([](const GenerateParams& params, int) {
    EXPECT_EQ(params.max_tokens, 50);
    return FakeEngine::Say(" " + std::string(params.max_tokens, 'b'));
  });
  const auto recited = RecitedBy(&engine_, model_, task, Always);
  ASSERT_TRUE(recited.ok()) << recited.status();
  EXPECT_EQ(recited->count, 2) << "the short answer proves nothing";
  EXPECT_EQ(recited->value, 0.5);
  EXPECT_EQ(RecitedBy(&engine_, model_, Ask({"short"}), Always)->count, 0);
}

TEST_F(AnswersTest, WorkStopsWhenToldTo) {
  const EvalTask task = Ask({"red", "blue"});
  const auto answers = attune::Ask(&engine_, model_, task, "", [](int64_t done, int64_t) { return done < 1; });
  EXPECT_TRUE(absl::IsCancelled(answers.status()));
  std::vector<ScoreParams> all(3, ScoreParams{model_, {1}, {{2}}});
  engine_.HoldScores();
  EXPECT_TRUE(absl::IsCancelled(ScoreAll(&engine_, all, [](int64_t, int64_t) { return false; },
                                         [](size_t, const ScoreResult&) { ADD_FAILURE(); })));
}

}  // namespace
}  // namespace attune
