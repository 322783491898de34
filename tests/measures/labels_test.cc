#include <string>
#include <vector>

#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/agreement.h"
#include "server/evaluation/measures/calibration.h"
#include "server/evaluation/measures/classification.h"
#include "server/evaluation/measures/label_balance.h"
#include "server/evaluation/measures/label_noise.h"
#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

TEST(ConfusionTest, CountsByHand) {
  Confusion confusion;
  for (const auto& [expected, predicted] :
       std::vector<std::pair<const char*, const char*>>{{"a", "a"}, {"a", "b"}, {"b", "b"}, {"c", "b"}}) {
    confusion.Add(expected, predicted);
  }
  EXPECT_EQ(confusion.Accuracy(), 0.5);
  const std::vector<LabelScore> labels = confusion.Labels();
  ASSERT_EQ(labels.size(), 3);
  EXPECT_EQ(labels[0].precision, 1);
  EXPECT_EQ(labels[0].recall, 0.5);
  EXPECT_EQ(labels[1].expected, 1);
  EXPECT_EQ(labels[1].predicted, 3);
  EXPECT_EQ(labels[2].f1, 0);
  EXPECT_NEAR(confusion.MacroF1(), (2.0 / 3 + 0.5 + 0) / 3, 1e-12);
  EXPECT_EQ(Confusion().MacroF1(), 0);
  EXPECT_EQ(Confusion().Accuracy(), 0);
}

TEST(CalibrationTest, BinsHoldTheirUpperEnds) {
  const std::vector<CalibrationBin> bins =
      CalibrationBins(std::vector<Judgement>{{0, false}, {0.5, true}, {0.51, true}, {1, false}}, 2);
  EXPECT_EQ(bins[0].count, 2);
  EXPECT_EQ(bins[0].accuracy, 0.5);
  EXPECT_EQ(bins[1].count, 2);
  EXPECT_NEAR(bins[1].confidence, 0.755, 1e-12);
}

TEST(CalibrationTest, HonestConfidenceHasASmallError) {
  CounterRandom random(5);
  std::vector<Judgement> honest, boastful;
  for (int i = 0; i < 20000; ++i) {
    const double p = random.Uniform();
    const bool correct = random.Uniform() < p;
    honest.push_back({p, correct});
    boastful.push_back({1, correct});
  }
  EXPECT_LT(ExpectedCalibrationError(honest), 0.02);
  EXPECT_NEAR(ExpectedCalibrationError(boastful), 0.5, 0.02);
  EXPECT_NEAR(BrierScore(honest), 1.0 / 6, 0.01);  // the mean of p (1 - p)
  EXPECT_EQ(ExpectedCalibrationError({}), 0);
  EXPECT_EQ(BrierScore({}), 0);
}

TEST(AgreementTest, CountsPairsAndGroups) {
  const std::vector<AnswerGroup> groups = {{"a", "a", "a"}, {"a", "a", "b"}, {"x"}, {}};
  const Agreement agreement = MeasureAgreement(groups);
  EXPECT_NEAR(agreement.pairwise, (1 + 1.0 / 3) / 2, 1e-12);
  EXPECT_EQ(agreement.unanimous.value, 0.5);
  EXPECT_EQ(agreement.unanimous.count, 2);
  EXPECT_EQ(MeasureAgreement({}).pairwise, 0);
}

TEST(AgreementTest, KappaIsZeroByChance) {
  CounterRandom random(11);
  std::vector<AnswerGroup> groups(5000);
  for (AnswerGroup& group : groups) {
    for (int i = 0; i < 3; ++i) group.push_back(random.Below(4) == 0 ? "b" : "a");
  }
  EXPECT_NEAR(FleissKappa(groups).value(), 0, 0.03);
  EXPECT_EQ(FleissKappa(std::vector<AnswerGroup>{{"a", "a"}, {"b", "b"}}), 1);
  EXPECT_EQ(FleissKappa(std::vector<AnswerGroup>{{"a", "a"}, {"a", "a"}}), std::nullopt);
  EXPECT_EQ(FleissKappa(std::vector<AnswerGroup>{{"a", "b"}, {"a", "a", "b"}}), std::nullopt);
}

TEST(LabelBalanceTest, KnowsTheEnds) {
  const LabelBalance even = MeasureLabelBalance(std::vector<std::string>{"a", "b", "c", "d"});
  EXPECT_NEAR(even.entropy, 2, 1e-12);
  EXPECT_NEAR(even.evenness, 1, 1e-12);
  EXPECT_EQ(even.majority, 0.25);
  const LabelBalance one = MeasureLabelBalance(std::vector<std::string>{"a", "a"});
  EXPECT_EQ(one.entropy, 0);
  EXPECT_EQ(one.evenness, 1);
  EXPECT_EQ(one.counts.at("a"), 2);
  EXPECT_EQ(MeasureLabelBalance({}).evenness, 0);
}

TEST(LabelNoiseTest, FindsFlippedLabels) {
  CounterRandom random(2);
  std::vector<float> features;
  std::vector<int32_t> labels;
  for (int row = 0; row < 120; ++row) {
    labels.push_back(row % 2);
    for (int d = 0; d < 4; ++d) features.push_back(random.Normal() * 0.2 + (d == row % 2 ? 1 : 0));
  }
  labels[10] = 1;
  labels[77] = 5;
  const LabelNoise noise = FindLabelNoise(features, labels, 7).value();
  EXPECT_THAT(noise.suspects, ElementsAre(10, 77));
  EXPECT_NEAR(noise.rate, 2.0 / 120, 1e-12);
  EXPECT_EQ(noise.disagreement[77], 1);
}

TEST(LabelNoiseTest, RefusesWhatDoesNotFit) {
  const std::vector<float> features(6, 0.0f);
  for (const auto& [labels, neighbors] :
       std::vector<std::pair<std::vector<int32_t>, int>>{{{0, 1, 0, 1}, 1}, {{0, 1}, 2}, {{}, 1}, {{0, 1, 0}, 0}}) {
    EXPECT_EQ(GetErrorDetails(FindLabelNoise(features, labels, neighbors).status()).reason, "BAD_FEATURES");
  }
  EXPECT_TRUE(FindLabelNoise(features, std::vector<int32_t>{0, 1, 0}, 2).ok());  // all the same, all zero
}

}  // namespace
}  // namespace attune
