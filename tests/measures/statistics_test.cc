#include <algorithm>
#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/paired_comparison.h"
#include "server/evaluation/measures/random.h"
#include "server/evaluation/measures/rank_correlation.h"
#include "server/evaluation/measures/significance.h"

namespace attune {
namespace {

std::vector<double> Normals(CounterRandom* random, int count, double mean) {
  std::vector<double> values(count);
  for (double& value : values) value = mean + random->Normal();
  return values;
}

// A p-value is at most alpha no more often than alpha, under the null; 4 standard errors to spare.
void ExpectUniform(const std::vector<double>& p_values) {
  for (double alpha : {0.05, 0.1, 0.25, 0.5, 0.75}) {
    const double share = std::count_if(p_values.begin(), p_values.end(), [&](double p) { return p <= alpha; }) /
                         static_cast<double>(p_values.size());
    EXPECT_NEAR(share, alpha, 4 * std::sqrt(alpha * (1 - alpha) / p_values.size())) << alpha;
  }
}

TEST(RandomTest, IsFairAndReproducible) {
  CounterRandom random(1), again(1), other(1, 1);
  std::vector<int> counts(7);
  double sum = 0, squares = 0;
  int equal = 0;
  for (int i = 0; i < 70000; ++i) {
    const int64_t draw = random.Below(7);
    EXPECT_EQ(draw, again.Below(7));
    equal += draw == other.Below(7);
    ++counts[draw];
  }
  for (int count : counts) EXPECT_NEAR(count, 10000, 400);
  EXPECT_NEAR(equal, 10000, 400);
  for (int i = 0; i < 70000; ++i) {
    const double z = random.Normal();
    sum += z, squares += z * z;
  }
  EXPECT_NEAR(sum / 70000, 0, 0.02);
  EXPECT_NEAR(squares / 70000, 1, 0.03);
  EXPECT_EQ(random.Below(1), 0);
}

TEST(BootstrapIntervalTest, IntervalsCoverTheMean) {
  CounterRandom random(7);
  const int kTrials = 400;
  int covered = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> values(60);
    for (double& value : values) value = -std::log(1 - random.Uniform());  // skewed, with the mean 1
    const Interval interval = BootstrapMean(values, {400, 0.95, static_cast<uint64_t>(trial)});
    EXPECT_LE(interval.lower, interval.value);
    EXPECT_GE(interval.upper, interval.value);
    covered += interval.lower <= 1 && 1 <= interval.upper;
  }
  EXPECT_GE(covered, 0.90 * kTrials);
  EXPECT_LE(covered, 0.98 * kTrials);
}

TEST(BootstrapIntervalTest, TakesAnyStatistic) {
  CounterRandom random(8);
  const std::vector<double> values = Normals(&random, 201, 3);
  const auto median = [&](absl::Span<const int64_t> indices) {
    std::vector<double> drawn;
    for (int64_t index : indices) drawn.push_back(values[index]);
    std::nth_element(drawn.begin(), drawn.begin() + drawn.size() / 2, drawn.end());
    return drawn[drawn.size() / 2];
  };
  const Interval interval = BootstrapStatistic(values.size(), median, {1000, 0.95, 1});
  EXPECT_LT(interval.lower, 3);
  EXPECT_GT(interval.upper, 3);
  EXPECT_NEAR(interval.upper - interval.lower, 2 * 1.96 * std::sqrt(M_PI / 2 / 201), 0.12);
  const Interval again = BootstrapStatistic(values.size(), median, {1000, 0.95, 1});
  EXPECT_EQ(interval.lower, again.lower);
  EXPECT_NE(interval.lower, BootstrapStatistic(values.size(), median, {1000, 0.95, 2}).lower);
  EXPECT_LT(interval.lower, BootstrapStatistic(values.size(), median, {1000, 0.5, 1}).lower);
}

TEST(BootstrapIntervalTest, OneValueIsItsOwnInterval) {
  const Interval interval = BootstrapMean(std::vector<double>{2}, {});
  EXPECT_EQ(interval.value, 2);
  EXPECT_EQ(interval.lower, 2);
  EXPECT_EQ(interval.upper, 2);
}

TEST(SignificanceTest, PermutationIsUniformUnderTheNull) {
  CounterRandom random(21);
  std::vector<double> p_values;
  for (int trial = 0; trial < 500; ++trial) p_values.push_back(PermutationTest(Normals(&random, 90, 0), 199, trial));
  ExpectUniform(p_values);
}

TEST(SignificanceTest, BootstrapIsNearlyUniformUnderTheNull) {
  CounterRandom random(22);
  std::vector<double> p_values;
  for (int trial = 0; trial < 400; ++trial) {
    const std::vector<double> values = Normals(&random, 120, 0);
    const auto mean = [&](absl::Span<const int64_t> indices) {
      double sum = 0;
      for (int64_t index : indices) sum += values[index];
      return sum / indices.size();
    };
    p_values.push_back(BootstrapTest(values.size(), mean, {199, 0.95, static_cast<uint64_t>(trial)}));
  }
  ExpectUniform(p_values);
}

TEST(SignificanceTest, McNemarIsConservativeUnderTheNull) {
  CounterRandom random(23);
  int rejected = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    int64_t first = 0;
    for (int i = 0; i < 30; ++i) first += random.Below(2);
    rejected += McNemarExact(first, 30 - first) < 0.05;
  }
  EXPECT_LE(rejected, 2000 * 0.05 + 40);
  EXPECT_GE(rejected, 2000 * 0.02);
  EXPECT_EQ(McNemarExact(0, 0), 1);
  EXPECT_EQ(McNemarExact(4, 9), McNemarExact(9, 4));
  EXPECT_GT(McNemarExact(1'000'000, 1'000'100), 0.9);
}

TEST(SignificanceTest, PermutationKnowsTheEnds) {
  EXPECT_EQ(PermutationTest({}, 100, 0), 1);
  EXPECT_EQ(PermutationTest(std::vector<double>(10, 0.0), 100, 0), 1);
  EXPECT_EQ(PermutationTest(std::vector<double>(5, 0.1), 100, 0), 2.0 / 32);
  EXPECT_EQ(PermutationTest(std::vector<double>(200, 0.1), 999, 0), 1.0 / 1000);
}

TEST(SignificanceTest, HolmKeepsTheFamilyErrorRate) {
  CounterRandom random(24);
  int any = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<double> p_values(8);
    for (double& p : p_values) p = random.Uniform();
    const std::vector<double> adjusted = HolmAdjust(p_values);
    for (size_t i = 0; i < p_values.size(); ++i) EXPECT_GE(adjusted[i], p_values[i]);
    any += *std::min_element(adjusted.begin(), adjusted.end()) < 0.05;
  }
  EXPECT_LE(any, 2000 * 0.05 + 40);
  EXPECT_GE(any, 2000 * 0.05 - 40);
  EXPECT_TRUE(HolmAdjust({}).empty());
}

TEST(ComparisonTest, TellsTheBetterAndTheTied) {
  CounterRandom random(31);
  const std::vector<double> base = Normals(&random, 200, 0);
  std::vector<double> better = base, same = base;
  for (double& value : better) value += 0.3 + random.Normal();
  for (double& value : same) value += random.Normal();
  EXPECT_EQ(ComparePaired(better, base, {}).verdict, Verdict::kFirst);
  EXPECT_EQ(ComparePaired(base, better, {}).verdict, Verdict::kSecond);
  EXPECT_EQ(ComparePaired(base, base, {}).verdict, Verdict::kTied);
  EXPECT_EQ(ComparePaired(same, base, {}).verdict, Verdict::kTied);
  EXPECT_NEAR(ComparePaired(better, base, {}).difference.value, 0.3, 0.2);
}

TEST(ComparisonTest, OutcomesGoToMcNemar) {
  std::vector<double> first(100, 1), second(100, 1);
  for (int i = 0; i < 12; ++i) second[i] = 0;
  for (int i = 90; i < 92; ++i) first[i] = 0;
  const PairedComparison comparison = ComparePaired(first, second, {});
  EXPECT_EQ(comparison.p_value, McNemarExact(12, 2));
  EXPECT_EQ(comparison.verdict, Verdict::kFirst);
  EXPECT_EQ(ComparePaired(first, second, {0.001}).verdict, Verdict::kTied);
}

TEST(ComparisonTest, StatisticsOfAllExamples) {
  CounterRandom random(33);
  const std::vector<double> first = Normals(&random, 300, 1), second = Normals(&random, 300, 0);
  const auto maker = [](const std::vector<double>& values) {
    return [&values](absl::Span<const int64_t> indices) {
      double squares = 0;
      for (int64_t index : indices) squares += values[index] * values[index];
      return std::sqrt(squares / indices.size());
    };
  };
  EXPECT_EQ(CompareStatistics(300, maker(first), maker(second), {0.05, 500}).verdict, Verdict::kFirst);
  EXPECT_EQ(CompareStatistics(300, maker(second), maker(second), {0.05, 500}).verdict, Verdict::kTied);
}

TEST(JudgeTest, NeedsBoth) {
  EXPECT_EQ(Judge({0.1, 0.01, 0.2}, 0.01, 0.05), Verdict::kFirst);
  EXPECT_EQ(Judge({-0.1, -0.2, -0.01}, 0.01, 0.05), Verdict::kSecond);
  EXPECT_EQ(Judge({0.1, 0.01, 0.2}, 0.05, 0.05), Verdict::kTied);
  EXPECT_EQ(Judge({0.1, -0.01, 0.2}, 0.01, 0.05), Verdict::kTied);
  EXPECT_EQ(Judge({0.1, 0, 0.2}, 0.01, 0.05), Verdict::kTied);
  EXPECT_EQ(Judge({0.1, 0.01, 0.2}, NAN, 0.05), Verdict::kTied);
}

TEST(KendallTest, KnowsTheEnds) {
  EXPECT_EQ(KendallTau(std::vector<double>{1, 2, 3}, std::vector<double>{4, 5, 9}), 1);
  EXPECT_EQ(KendallTau(std::vector<double>{1, 2, 3}, std::vector<double>{9, 5, 4}), -1);
  EXPECT_EQ(KendallTau(std::vector<double>{1, 2, 3}, std::vector<double>{5, 5, 5}), std::nullopt);
  EXPECT_EQ(KendallTau({}, {}), std::nullopt);
}

}  // namespace
}  // namespace attune
