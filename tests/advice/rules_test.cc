#include "server/advice/rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "server/advice/calibration.h"
#include "server/advice/finding.h"
#include "tests/advice/evidence_sample.h"

namespace attune {
namespace {

using ::testing::Contains;
using ::testing::Not;

std::vector<ContenderKind> Kinds() {
  std::vector<ContenderKind> kinds = {ContenderKind::kZeroShot};
  for (const auto& [kind, rule] : PriorRules().rules) kinds.push_back(kind);
  return kinds;
}

// As the points of a curve that ends so high.
std::vector<CurvePoint> Curve(double low, double middle, double high) {
  return {{50, low, 0.05}, {100, middle, 0.05}, {200, high, 0.05}};
}

TEST(RulesTest, RangesAreOrderedForAnyEvidence) {
  for (ContenderKind kind : Kinds()) {
    for (int64_t rows : {0, 1, 40, 1000, 1'000'000}) {
      for (int64_t labels : {0, 2, 100}) {
        for (double distance : {-2.0, 0.0, 3.0, 30.0}) {
          for (int64_t parameters : {int64_t{0}, int64_t{1'000'000}, int64_t{1'000'000'000'000}}) {
            for (int right : {-1, 0, 60, 120}) {
              Evidence evidence = SampleEvidence();
              evidence.rows = rows;
              evidence.labels = labels;
              evidence.task_distance = distance;
              evidence.parameters = parameters;
              evidence.zero_shot.reset();
              if (right >= 0) evidence.zero_shot = WilsonInterval(right, 120);
              if (rows == 1000) evidence.curve = Curve(0.2, 0.9, 0.3);
              const Expectation e = Expect(PriorRules(), kind, evidence);
              ASSERT_LE(0, e.lower);
              ASSERT_LE(e.lower, e.quality + 1e-12) << ContenderName(kind) << " rows " << rows;
              ASSERT_LE(e.quality, e.upper + 1e-12) << ContenderName(kind) << " rows " << rows;
              ASSERT_LE(e.upper, 1);
              ASSERT_FALSE(e.findings.empty());
            }
          }
        }
      }
    }
  }
}

TEST(RulesTest, MoreRowsNeverLowerWhatIsExpected) {
  for (ContenderKind kind : Kinds()) {
    for (const std::vector<CurvePoint>& curve :
         {std::vector<CurvePoint>(), Curve(0.3, 0.5, 0.6), Curve(0.8, 0.95, 0.97), Curve(0.9, 0.5, 0.4)}) {
      for (bool is_probed : {true, false}) {
        Evidence evidence = SampleEvidence();
        evidence.curve = curve;
        evidence.curve_is_sure = is_probed;
        if (!is_probed) evidence.zero_shot.reset();
        double before = 0;
        for (double rows = 1; rows < 1e6; rows *= 1.5) {
          evidence.rows = static_cast<int64_t>(rows);
          const double quality = Expect(PriorRules(), kind, evidence).quality;
          EXPECT_GE(quality, before - 1e-9) << ContenderName(kind) << " at " << rows;
          before = quality;
        }
      }
    }
  }
}

TEST(RulesTest, MoreRowsNarrowLorasRange) {
  Evidence few = SampleEvidence(), many = SampleEvidence();
  few.rows = 30;
  many.rows = 5000;
  const Expectation a = Expect(PriorRules(), ContenderKind::kLora, few),
                    b = Expect(PriorRules(), ContenderKind::kLora, many);
  EXPECT_LT(b.upper - b.lower, a.upper - a.lower);
}

// What this project measured: R8 with 700 rows and 5,485 rows by LoRA, by soft prompt; Banking77.
TEST(RulesTest, WhatWasMeasuredLiesInTheRanges) {
  Evidence r8 = SampleEvidence();
  r8.zero_shot = WilsonInterval(10, 150);
  r8.few_shot.reset();
  r8.task_distance = 9.8;
  const auto expect = [](const Evidence& evidence, ContenderKind kind, double measured) {
    const Expectation e = Expect(PriorRules(), kind, evidence);
    EXPECT_LE(e.lower, measured) << ContenderName(kind) << " " << e.quality;
    EXPECT_GE(e.upper, measured) << ContenderName(kind) << " " << e.quality;
  };
  r8.rows = 700;
  expect(r8, ContenderKind::kLora, 0.974);
  expect(r8, ContenderKind::kSoftPrompt, 0.932);
  r8.rows = 5485;
  expect(r8, ContenderKind::kLora, 0.981);
  expect(r8, ContenderKind::kSoftPrompt, 0.884);
  Evidence banking = SampleEvidence();
  banking.labels = 77;
  banking.rows = 10'003;
  banking.zero_shot = WilsonInterval(15, 500);
  banking.task_distance.reset();
  expect(banking, ContenderKind::kLora, 0.932);
}

TEST(RulesTest, SizeHelpsPromptsAndDistanceHurtsThemMost) {
  Evidence evidence = SampleEvidence(), large = SampleEvidence(), far = SampleEvidence();
  evidence.few_shot = large.few_shot = far.few_shot = std::nullopt;
  large.parameters = 70'000'000'000;
  far.task_distance = 6;
  const auto quality = [](ContenderKind kind, const Evidence& e) { return Expect(PriorRules(), kind, e).quality; };
  const auto change = [&](ContenderKind kind, const Evidence& to) {
    return quality(kind, to) - quality(kind, evidence);
  };
  EXPECT_GT(change(ContenderKind::kTextPrompt, large), change(ContenderKind::kLora, large));
  EXPECT_GT(change(ContenderKind::kSoftPrompt, large), change(ContenderKind::kLora, large));
  EXPECT_LT(change(ContenderKind::kTextPrompt, far), change(ContenderKind::kLora, far));
  EXPECT_EQ(change(ContenderKind::kFull, far), 0);
}

TEST(RulesTest, ProbesReplacePriors) {
  Evidence evidence = SampleEvidence();
  const Expectation zero = Expect(PriorRules(), ContenderKind::kZeroShot, evidence);
  EXPECT_DOUBLE_EQ(zero.quality, 0.3);
  EXPECT_TRUE(zero.is_measured);
  const Expectation prompt = Expect(PriorRules(), ContenderKind::kTextPrompt, evidence);
  EXPECT_DOUBLE_EQ(prompt.quality, 0.55) << "a tenth of what few-shot leaves";
  EXPECT_TRUE(prompt.is_measured);
  EXPECT_THAT(prompt.findings, Contains(std::string(kFewShotQuality)));
  evidence.few_shot = WilsonInterval(10, 120);  // examples may hurt: then the prompt as it is counts
  EXPECT_NEAR(Expect(PriorRules(), ContenderKind::kTextPrompt, evidence).quality, 0.37, 1e-9);
}

TEST(RulesTest, ACurveMovesLoraMoreUpThanDownAndOthersLess) {
  Evidence evidence = SampleEvidence(), high = evidence, low = evidence;
  high.curve = Curve(0.97, 0.985, 0.99);
  low.curve = Curve(0.3, 0.31, 0.32);
  low.curve_is_sure = true;
  const auto quality = [](ContenderKind kind, const Evidence& e) { return Expect(PriorRules(), kind, e).quality; };
  const double plain = quality(ContenderKind::kLora, evidence);
  const double up = quality(ContenderKind::kLora, high) - plain, down = quality(ContenderKind::kLora, low) - plain;
  EXPECT_GT(up, 0);
  Evidence unsure = low;
  unsure.curve_is_sure = false;
  EXPECT_EQ(quality(ContenderKind::kLora, unsure), plain) << "short jobs that fail tell nothing";
  EXPECT_FALSE(Expect(PriorRules(), ContenderKind::kLora, unsure).is_measured);
  EXPECT_LT(down, -0.1);
  EXPECT_GT(quality(ContenderKind::kLora, low), 0.32) << "short jobs are a floor";
  EXPECT_NEAR(quality(ContenderKind::kFull, low) - quality(ContenderKind::kFull, evidence), down / 2, 1e-9);
  EXPECT_EQ(quality(ContenderKind::kTextPrompt, low), quality(ContenderKind::kTextPrompt, evidence));
  EXPECT_GE(Expect(PriorRules(), ContenderKind::kLora, high).lower, 0.88)
      << "what a short job reached, less two standard errors";
  EXPECT_TRUE(Expect(PriorRules(), ContenderKind::kLora, high).is_measured);
  EXPECT_FALSE(Expect(PriorRules(), ContenderKind::kFull, high).is_measured);
  high.curve.resize(2);  // no curve
  EXPECT_DOUBLE_EQ(quality(ContenderKind::kLora, high), plain);
  EXPECT_THAT(Expect(PriorRules(), ContenderKind::kLora, high).findings, Not(Contains(std::string(kLearningCurve))));
}

// ---- calibration

PastComparison Past(double lora, int64_t tests = 200) {
  Comparison comparison = SampleOutcome("c", {{ContenderKind::kZeroShot, 0.3}, {ContenderKind::kLora, lora}});
  comparison.test_examples = tests;
  return {comparison, 135'000'000};
}

double LoraShift(const std::vector<PastComparison>& past) {
  return Calibrate(PriorRules(), past).shift[ContenderKind::kLora];
}

double LoraExpected() {
  return Expect(PriorRules(), ContenderKind::kLora, EvidenceOf(Past(0.5).comparison, 135'000'000)).quality;
}

TEST(CalibrationTest, OneComparisonDoesNotOverturnTheTable) {
  const double residual = (0.5 - LoraExpected()) / 0.7;
  const double shift = LoraShift({Past(0.5)});
  EXPECT_LT(shift, 0);
  EXPECT_GT(shift, residual / 4);
  const double weight = 0.7 * 200.0 / 250;
  EXPECT_NEAR(shift, weight * residual / (weight + kPseudoCount), 1e-9);
}

TEST(CalibrationTest, ManyComparisonsPrevail) {
  const std::vector<PastComparison> past(100, Past(0.5));
  const RuleTable table = Calibrate(PriorRules(), past);
  EXPECT_EQ(table.comparisons.at(ContenderKind::kLora), 100);
  EXPECT_NEAR(Expect(table, ContenderKind::kLora, EvidenceOf(past[0].comparison, 135'000'000)).quality, 0.5, 0.03);
  const auto gap = [&](size_t count) {
    const std::vector<PastComparison> some(past.begin(), past.begin() + static_cast<int64_t>(count));
    return std::abs(
        Expect(Calibrate(PriorRules(), some), ContenderKind::kLora, EvidenceOf(past[0].comparison, 135'000'000))
            .quality -
        0.5);
  };
  EXPECT_LT(gap(10), gap(3));
  EXPECT_LT(gap(3), gap(1));
}

TEST(CalibrationTest, WhatWasExpectedMovesNothing) {
  const double expected = LoraExpected();
  Comparison comparison = Past(0.5).comparison;
  comparison.contenders[1].measures[0].value = expected;
  EXPECT_NEAR(LoraShift({{comparison, 135'000'000}}), 0, 1e-12);
}

TEST(CalibrationTest, MoreTestRowsWeighMoreAndFailuresNothing) {
  EXPECT_LT(LoraShift({Past(0.5, 2000)}), LoraShift({Past(0.5, 20)}));
  PastComparison failed = Past(0.5);
  failed.comparison.state = ComparisonState::kFailed;
  EXPECT_EQ(LoraShift({failed}), 0);
  PastComparison no_zero_shot = Past(0.5);
  no_zero_shot.comparison.contenders.erase(no_zero_shot.comparison.contenders.begin());
  EXPECT_EQ(LoraShift({no_zero_shot}), 0) << "the headroom is not known";
  PastComparison no_headroom = Past(0.5);
  no_headroom.comparison.contenders[0].measures[0].value = 0.99;
  EXPECT_EQ(LoraShift({no_headroom}), 0);
}

TEST(CalibrationTest, MoreRowsStillNeverLower) {
  const RuleTable table = Calibrate(PriorRules(), std::vector<PastComparison>(20, Past(0.4)));
  Evidence evidence = SampleEvidence();
  double before = 0;
  for (double rows = 1; rows < 1e6; rows *= 1.5) {
    evidence.rows = static_cast<int64_t>(rows);
    const double quality = Expect(table, ContenderKind::kLora, evidence).quality;
    EXPECT_GE(quality, before - 1e-9);
    before = quality;
  }
}

}  // namespace
}  // namespace attune
