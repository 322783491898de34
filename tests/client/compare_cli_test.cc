// attune compare, attune comparisons: what is asked for, and how results look.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/fake_services.h"
#include "tests/testing/run_cli.h"

namespace attune {
namespace {

using testing::CliResult;
using testing::FakeServer;
using testing::RunAttune;
using ::testing::HasSubstr;
using ::testing::Not;
using v1::Comparison;

class CompareCliTest : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> args) {
    args.insert(args.end(), {"--server", server_.target()});
    return RunAttune(std::move(args), "");
  }
  Comparison& Made(const std::string& name = "comparisons/c") { return server_.state().comparisons[name]; }

  static void Add(Comparison::Contender* contender, const std::string& name, double value, int64_t count) {
    Comparison::Measure& measure = *contender->add_measures();
    measure.set_name(name);
    measure.set_value(value);
    measure.set_lower(value - 0.1);
    measure.set_upper(value + 0.1);
    measure.set_count(count);
  }

  FakeServer server_;
};

TEST_F(CompareCliTest, OptionsArrive) {
  const CliResult result =
      Run({"compare", "--base", "b", "--data", "d", "--name", "c", "--methods", "zero-shot,lora", "--metric", "pattern-match",
           "--pattern", "[a-z]+", "--max-answer-tokens", "99", "--retention", "kept", "--learning-curve", "--trials", "3"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(Made().base_model(), "models/b");
  EXPECT_EQ(Made().metric(), Comparison::PATTERN_MATCH);
  EXPECT_EQ(Made().pattern(), "[a-z]+");
  EXPECT_EQ(Made().max_answer_tokens(), 99);
  EXPECT_EQ(Made().retention_dataset(), "datasets/kept");
  EXPECT_TRUE(Made().learning_curve());
  EXPECT_EQ(Made().contenders_size(), 2);
  ASSERT_EQ(Run({"compare", "--base", "b", "--data", "d", "--name", "j", "--metric", "judge", "--judge", "big", "--judge-prompt",
                 "Right?\\n{{answer}}"}).code, 0);
  EXPECT_EQ(Made("comparisons/j").judge_model(), "models/big");
  EXPECT_EQ(Made("comparisons/j").judge_prompt(), "Right?\n{{answer}}");
  const CliResult wrong = Run({"compare", "--base", "b", "--data", "d", "--metric", "magic"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("label-accuracy"));
}

TEST_F(CompareCliTest, ShowsFiguresOfTextAndLearningCurves) {
  Comparison& comparison = Made();
  comparison.set_name("comparisons/c");
  comparison.set_state(Comparison::SUCCEEDED);
  comparison.set_metric(Comparison::ROUGE_L);
  comparison.set_train_examples(800);
  comparison.add_results()->set_kind(Comparison::ZERO_SHOT);
  comparison.mutable_results(0)->set_best_trial(-1);
  Comparison::Contender& lora = *comparison.add_results();
  lora.set_kind(Comparison::LORA);
  lora.set_rank(1);
  Add(&lora, "quality", 0.75, 40);
  Add(&lora, "bleu", 0.5, 40);
  Add(&lora, "twice_the_data", 0.875, 0);
  Comparison::Trial& best = *lora.add_trials();
  best.set_state(Comparison::Trial::DONE);
  best.mutable_validation()->set_value(0.8125);
  best.mutable_validation()->set_count(20);
  Comparison::CurvePoint& point = *lora.add_curve();
  point.set_examples(100);
  *point.mutable_trial() = best;
  Comparison::CurvePoint& failed = *lora.add_curve();
  failed.set_examples(200);
  failed.mutable_trial()->set_state(Comparison::Trial::FAILED);
  failed.mutable_trial()->set_error("out of memory");

  const CliResult shown = Run({"comparisons", "show", "c"});
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("rouge-l"));
  EXPECT_THAT(shown.out, HasSubstr("BLEU"));
  EXPECT_THAT(shown.out, HasSubstr("0.500 [0.400, 0.600]"));
  EXPECT_THAT(shown.out, Not(HasSubstr("JSON VALID"))) << "nobody has it";
  EXPECT_THAT(shown.out, HasSubstr("learning curves:"));
  EXPECT_THAT(shown.out, HasSubstr("out of memory"));
  EXPECT_THAT(shown.out, HasSubstr("800 (all)"));
  EXPECT_THAT(shown.out, HasSubstr("0.875 [0.775, 0.975] foreseen"));
}

}  // namespace
}  // namespace attune
