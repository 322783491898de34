#include "server/evaluation/calibration.h"

#include <gtest/gtest.h>

#include <cmath>

namespace attune {
namespace {

TEST(CalibrationTest, WhatThePromptFavoursIsTakenOff) {
  // Without input the first label has three quarters.
  const std::vector<double> offsets = CalibrationOffsets({{std::log(0.3), std::log(0.1)}});
  EXPECT_NEAR(offsets[0], -std::log(0.75), 1e-12);
  EXPECT_NEAR(offsets[1], -std::log(0.25), 1e-12);
  std::vector<ScoredContinuation> labels(2);
  labels[0].logprob = std::log(0.3);  // a row about which the model says no more than of none
  labels[1].logprob = std::log(0.1001);
  EXPECT_EQ(Likeliest(LabelScores(labels, {})), 0);
  EXPECT_EQ(Likeliest(LabelScores(labels, offsets)), 1);
}

TEST(CalibrationTest, SeveralInputsCountAlike) {
  const std::vector<double> offsets =
      CalibrationOffsets({{std::log(0.9), std::log(0.1)}, {std::log(0.01), std::log(0.09)}});
  EXPECT_NEAR(offsets[0], -std::log(0.5), 1e-12);
  EXPECT_NEAR(offsets[1], -std::log(0.5), 1e-12);
}

TEST(CalibrationTest, ImpossibleLabelsKeepFiniteOffsets) {
  const std::vector<double> offsets = CalibrationOffsets({{0, -1000}});
  EXPECT_TRUE(std::isfinite(offsets[1]));
  EXPECT_GT(offsets[1], offsets[0]);
}

TEST(CalibrationTest, OffsetsAreByLabelAndForAllOrNone) {
  const std::map<std::string, double> known = {{"a", 1}, {"b", 2}};
  EXPECT_EQ(OffsetsFor(known, {"b", "a"}), (std::vector<double>{2, 1}));
  EXPECT_EQ(OffsetsFor(known, {"a"}), (std::vector<double>{1}));
  EXPECT_TRUE(OffsetsFor(known, {"a", "c"}).empty());
  EXPECT_TRUE(OffsetsFor({}, {"a"}).empty());
}

TEST(CalibrationTest, TheFirstOfEqualsIsTheLikeliest) { EXPECT_EQ(Likeliest({-1, -0.5, -0.5}), 1); }

}  // namespace
}  // namespace attune
