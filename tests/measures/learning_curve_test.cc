#include "server/evaluation/measures/learning_curve.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

std::vector<CurvePoint> Points(const LearningCurve& curve, const std::vector<double>& sizes, double error,
                               CounterRandom* random) {
  std::vector<CurvePoint> points;
  for (double size : sizes) {
    points.push_back({size, std::min(1.0, curve.Quality(size) + error * random->Normal()), error});
  }
  return points;
}

TEST(LearningCurveTest, StaysInItsBounds) {
  CounterRandom random(1);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<CurvePoint> points;
    for (double size : {20, 60, 200, 700}) points.push_back({size, random.Uniform(), 0.01 + random.Uniform()});
    const LearningCurve curve = FitLearningCurve(points).value();
    double best = 0;
    for (const CurvePoint& point : points) best = std::max(best, point.quality);
    EXPECT_GE(curve.limit, best);
    EXPECT_LE(curve.limit, 1);
    EXPECT_GT(curve.rate, 0);
    EXPECT_LE(curve.rate, 2);
    EXPECT_GE(curve.scale, 0);
  }
}

TEST(LearningCurveTest, LossesAreNegative) {
  CounterRandom random(1);
  const LearningCurve truth{-1.7, 5, 0.4};
  const LearningCurve curve = FitLearningCurve(Points(truth, {100, 400, 1600}, 1e-9, &random), 0).value();
  EXPECT_NEAR(curve.limit, -1.7, 1e-3);
  EXPECT_NEAR(FitLearningCurve(Points(truth, {100, 400, 1600}, 1e-9, &random), INFINITY)->rate, 0.4, 1e-3);
}

TEST(LearningCurveTest, IntervalsCoverTheTruth) {
  const LearningCurve truth{0.95, 1.5, 0.5};
  CounterRandom random(4);
  int covered = 0, enough = 0;
  CurveOptions options;
  options.resamples = 100;
  for (int trial = 0; trial < 60; ++trial) {
    options.seed = trial;
    const CurvePrediction prediction =
        PredictQuality(Points(truth, {50, 100, 200, 400, 800}, 0.01, &random), 3200, options).value();
    covered += prediction.lower <= truth.Quality(3200) && truth.Quality(3200) <= prediction.upper;
    enough += prediction.evidence == CurveEvidence::kEnough;
  }
  EXPECT_GE(covered, 52);
  EXPECT_GE(enough, 57);
}

TEST(LearningCurveTest, SaysWhenItCannotTell) {
  CounterRandom random(5);
  const LearningCurve truth{0.9, 0.8, 0.25};
  const auto evidence = [](const std::vector<CurvePoint>& points, double examples) {
    return PredictQuality(points, examples, {}).value().evidence;
  };
  EXPECT_EQ(evidence(Points(truth, {50, 200, 800}, 0.05, &random), 3200), CurveEvidence::kTooUncertain);
  // All at the bound: the fit is sure, each point is not.
  EXPECT_EQ(evidence({{50, 1, 0.03}, {200, 1, 0.03}, {800, 1, 0.03}}, 3200), CurveEvidence::kTooUncertain);
  EXPECT_EQ(evidence(Points(truth, {50, 200, 800}, 0.005, &random), 3200), CurveEvidence::kEnough);
  EXPECT_EQ(evidence(Points(truth, {50, 200, 800}, 0.005, &random), 8001), CurveEvidence::kTooFar);
  EXPECT_EQ(evidence({{50, 0.9, 0.01}, {200, 0.7, 0.01}, {800, 0.5, 0.01}}, 1600), CurveEvidence::kPoorFit);
}

TEST(LearningCurveTest, SameSeedSameInterval) {
  const std::vector<CurvePoint> points = {{50, 0.5, 0.02}, {200, 0.7, 0.02}, {800, 0.8, 0.02}};
  const CurvePrediction a = PredictQuality(points, 2000, {}).value(), b = PredictQuality(points, 2000, {}).value();
  EXPECT_EQ(a.lower, b.lower);
  EXPECT_EQ(a.upper, b.upper);
  EXPECT_LE(a.lower, a.quality);
  EXPECT_GE(a.upper, a.quality);
  EXPECT_GT(a.quality, 0.8);
}

TEST(LearningCurveTest, RefusesWhatIsNoCurve) {
  const std::vector<std::vector<CurvePoint>> kWrong = {
      {},
      {{50, 0.5, 0.1}, {100, 0.6, 0.1}},
      {{50, 0.5, 0.1}, {50, 0.6, 0.1}, {100, 0.6, 0.1}},
      {{0, 0.5, 0.1}, {50, 0.6, 0.1}, {100, 0.6, 0.1}},
      {{20, 0.5, 0}, {50, 0.6, 0.1}, {100, 0.6, 0.1}},
      {{20, 0.5, 0.1}, {50, NAN, 0.1}, {100, 0.6, 0.1}},
      {{20, 0.5, 0.1}, {50, 1.1, 0.1}, {100, 0.6, 0.1}},
  };
  for (const std::vector<CurvePoint>& points : kWrong) {
    EXPECT_EQ(GetErrorDetails(FitLearningCurve(points).status()).reason, "BAD_CURVE");
    EXPECT_FALSE(PredictQuality(points, 100, {}).ok());
  }
}

}  // namespace
}  // namespace attune
