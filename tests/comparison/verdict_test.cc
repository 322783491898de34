#include "server/comparison/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/comparison/measure_names.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Right on all examples but `wrong` ones, from `first` on.
std::vector<double> Scores(int count, int first, int wrong) {
  std::vector<double> scores(count, 1);
  for (int i = 0; i < wrong; ++i) scores[(first + i) % count] = 0;
  return scores;
}

class VerdictTest : public ::testing::Test {
 protected:
  void Add(ContenderKind kind, std::vector<double> scores, double seconds) {
    Contender contender{.kind = kind, .state = Contender::State::kMeasured};
    double sum = 0;
    for (double score : scores) sum += score;
    const double mean = sum / static_cast<double>(scores.size());
    contender.measures = {{std::string(kQuality), mean, mean - 0.02, mean + 0.02, static_cast<int64_t>(scores.size())},
                          {std::string(kSearchSeconds), seconds, 0, 0, 0}};
    comparison_.contenders.push_back(contender);
    scores_.push_back(std::move(scores));
    comparison_.test_examples = 200;
  }
  Comparison comparison_;
  std::vector<std::vector<double>> scores_;
};

TEST_F(VerdictTest, TheBestWinsWhereTheTestTellsThemApart) {
  Add(ContenderKind::kZeroShot, Scores(200, 0, 120), 0);
  Add(ContenderKind::kLora, Scores(200, 0, 10), 300);
  Add(ContenderKind::kSoftPrompt, Scores(200, 0, 50), 30);
  Decide(scores_, &comparison_);
  EXPECT_EQ(comparison_.winner, 1);
  EXPECT_EQ(comparison_.contenders[1].rank, 1);
  EXPECT_EQ(comparison_.contenders[2].rank, 2);
  EXPECT_EQ(comparison_.contenders[0].rank, 3);
  EXPECT_LT(comparison_.contenders[2].p_value, 0.001);
  EXPECT_FALSE(comparison_.contenders[2].ties_best);
  EXPECT_THAT(comparison_.verdict, HasSubstr("Take lora: quality 0.950 (0.930 to 0.970) on 200 test examples"));
  EXPECT_THAT(comparison_.verdict, HasSubstr("Behind it: soft prompt 0.750, zero shot 0.400."));
}

// Somewhat cheaper is no reason to give quality away; as good and a tenth as large is.
TEST_F(VerdictTest, SizeDecidesWhereItMatters) {
  auto give = [&](size_t i, double mebibytes) {
    comparison_.contenders[i].measures.push_back({std::string(kModelBytes), mebibytes * (1 << 20), 0, 0, 0});
  };
  Add(ContenderKind::kFull, Scores(200, 0, 9), 60);
  Add(ContenderKind::kPartial, Scores(200, 3, 10), 55);
  Add(ContenderKind::kLora, Scores(200, 5, 11), 65);
  give(0, 300);
  give(1, 250);
  give(2, 19);
  Decide(scores_, &comparison_);
  EXPECT_EQ(comparison_.winner, 2);
  comparison_.contenders.pop_back();
  scores_.pop_back();
  Decide(scores_, &comparison_);
  EXPECT_EQ(comparison_.winner, 0);
}

TEST_F(VerdictTest, TheCheapestOfThoseThatAreNotToldApart) {
  Add(ContenderKind::kFull, Scores(200, 0, 9), 900);
  Add(ContenderKind::kLora, Scores(200, 5, 11), 300);
  Add(ContenderKind::kIa3, Scores(200, 20, 80), 10);
  Decide(scores_, &comparison_);
  EXPECT_EQ(comparison_.winner, 1);
  EXPECT_EQ(comparison_.contenders[0].rank, 1);
  EXPECT_TRUE(comparison_.contenders[1].ties_best);
  EXPECT_THAT(comparison_.verdict, HasSubstr("Take lora"));
  EXPECT_THAT(comparison_.verdict, HasSubstr("full has 0.955"));
  EXPECT_THAT(comparison_.verdict, HasSubstr("do not tell apart"));
}

TEST_F(VerdictTest, WhatWasNotMeasuredHasNoRank) {
  Add(ContenderKind::kLora, Scores(200, 0, 9), 900);
  Add(ContenderKind::kPrefix, Scores(200, 0, 9), 1);
  scores_[1].clear();
  Decide(scores_, &comparison_);
  EXPECT_EQ(comparison_.winner, 0);
  EXPECT_EQ(comparison_.contenders[1].rank, 0);
  EXPECT_THAT(comparison_.verdict, Not(HasSubstr("prefix")));
  scores_[0].clear();
  comparison_.winner = -1;
  Decide(scores_, &comparison_);
  EXPECT_EQ(comparison_.winner, -1);
  EXPECT_THAT(comparison_.verdict, HasSubstr("nothing to recommend"));
}

TEST_F(VerdictTest, ForgettingIsSaid) {
  Add(ContenderKind::kFull, Scores(200, 0, 9), 900);
  comparison_.contenders[0].measures.push_back({std::string(kForgetting), 0.2, 0.15, 0.25, 400});
  Decide(scores_, &comparison_);
  EXPECT_THAT(comparison_.verdict, HasSubstr("it forgets: 0.200"));
}

}  // namespace
}  // namespace attune
