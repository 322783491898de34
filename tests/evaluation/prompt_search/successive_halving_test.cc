#include "server/evaluation/prompt_search/successive_halving.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "server/evaluation/prompt_search/mean_interval.h"

namespace attune {
namespace {

// Arms that succeed on a row with a probability each; remembers what was asked.
class Bandit {
 public:
  Bandit(std::vector<double> chances, int64_t rows, uint64_t seed) : values_(chances.size()), met_(chances.size()) {
    std::mt19937_64 random(seed);
    for (size_t arm = 0; arm < chances.size(); ++arm) {
      for (int64_t row = 0; row < rows; ++row) {
        values_[arm].push_back(std::uniform_real_distribution<double>()(random) < chances[arm] ? 1.0 : 0.0);
      }
    }
  }

  HalvingArms Arms() {
    HalvingArms arms;
    arms.count = static_cast<int64_t>(values_.size());
    arms.measure = [this](const std::vector<int64_t>& alive, int64_t rows) -> absl::StatusOr<bool> {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t arm : alive) {
          if (row < met_[arm]) continue;
          if (spent_ == budget_) return false;
          ++spent_;
          EXPECT_EQ(row, met_[arm]) << "a row was left out";
          met_[arm] = row + 1;
        }
      }
      return true;
    };
    arms.estimate = [this](int64_t arm, int64_t rows) {
      const auto begin = values_[arm].begin();
      return MeanInterval({begin, begin + std::min(rows, met_[arm])});
    };
    return arms;
  }

  int64_t spent() const { return spent_; }
  int64_t met(int64_t arm) const { return met_[arm]; }
  void SetBudget(int64_t budget) { budget_ = budget; }

 private:
  std::vector<std::vector<double>> values_;
  std::vector<int64_t> met_;
  int64_t spent_ = 0, budget_ = INT64_MAX;
};

std::vector<double> Chances() {
  std::vector<double> chances(16, 0.45);
  chances[11] = 0.85;
  chances[3] = 0.6;
  return chances;
}

TEST(SuccessiveHalvingTest, FindsTheBestArmAndSpendsLessThanAllOnAllRows) {
  constexpr int kSeeds = 200, kRows = 128;
  int found = 0;
  const HalvingOptions options{.rows = kRows};
  for (int seed = 0; seed < kSeeds; ++seed) {
    Bandit bandit(Chances(), kRows, seed);
    auto results = SuccessiveHalving(options, bandit.Arms());
    ASSERT_TRUE(results.ok());
    ASSERT_EQ(results->size(), 16);
    found += (*results)[0].arm == 11;
    EXPECT_LE(bandit.spent(), HalvingCost(options, 16));
    EXPECT_LT(bandit.spent(), 16 * kRows / 3);
  }
  EXPECT_GE(found, kSeeds * 95 / 100) << found;
}

TEST(SuccessiveHalvingTest, TheBetterHalfGoesOnAndTheWorstIsNotMeasuredAgain) {
  Bandit bandit({1, 1, 0.9, 0, 0, 0, 0, 0}, 64, 1);
  auto results = SuccessiveHalving({.rows = 64, .first_rows = 16}, bandit.Arms());
  ASSERT_TRUE(results.ok());
  for (int64_t arm = 3; arm < 8; ++arm) EXPECT_EQ(bandit.met(arm), 16) << arm;
  EXPECT_EQ((*results)[0].arm, 0);  // the first of equals
  EXPECT_GT((*results)[0].rungs, results->back().rungs);
}

TEST(SuccessiveHalvingTest, ABadArmDropsOutOfTheBetterHalf) {
  // Two of three would be kept, but zeros are below the lower bound of ones.
  Bandit bandit({1, 0, 0}, 64, 1);
  auto results = SuccessiveHalving({.rows = 64, .first_rows = 16}, bandit.Arms());
  ASSERT_TRUE(results.ok());
  EXPECT_EQ(bandit.spent(), 3 * 16);
  EXPECT_EQ((*results)[0].arm, 0);
}

TEST(SuccessiveHalvingTest, StopsAtTheFinalistsOrTheLastRow) {
  Bandit few({0.5, 0.5, 0.5, 0.5}, 10, 1);
  auto results = SuccessiveHalving({.rows = 10, .first_rows = 16}, few.Arms());
  ASSERT_TRUE(results.ok());
  EXPECT_EQ(few.spent(), 40);  // one rung: all rows for all
  Bandit two({0.5, 0.5, 0.5, 0.5}, 64, 1);
  HalvingOptions options{.rows = 64, .first_rows = 16};
  options.finalists = 2;
  ASSERT_TRUE(SuccessiveHalving(options, two.Arms()).ok());
  EXPECT_EQ(two.spent(), HalvingCost(options, 4));
  EXPECT_EQ(two.spent(), 64);
}

TEST(SuccessiveHalvingTest, EndsWithTheBudgetAndWithErrors) {
  Bandit bandit(Chances(), 128, 3);
  bandit.SetBudget(300);
  auto results = SuccessiveHalving({.rows = 128}, bandit.Arms());
  ASSERT_TRUE(results.ok());
  EXPECT_EQ(bandit.spent(), 300);
  EXPECT_EQ((*results)[0].rungs, 1);
  HalvingArms broken = bandit.Arms();
  broken.measure = [](const std::vector<int64_t>&, int64_t) { return absl::CancelledError("enough"); };
  EXPECT_TRUE(absl::IsCancelled(SuccessiveHalving({.rows = 128}, broken).status()));
}

TEST(SuccessiveHalvingTest, CostIsWhatTheRungsAddUpTo) {
  // 8 arms meet 16 rows, 4 of them 16 more, 2 of them 32 more.
  EXPECT_EQ(HalvingCost({.rows = 256, .first_rows = 16}, 8), 8 * 16 + 4 * 16 + 2 * 32);
  EXPECT_EQ(HalvingCost({.rows = 20, .first_rows = 16}, 8), 8 * 16 + 4 * 4);
  EXPECT_EQ(HalvingCost({.rows = 256, .first_rows = 16}, 1), 16);
}

TEST(MeanIntervalTest, WilsonForSharesAndBernsteinForFigures) {
  const Proportion share = MeanInterval({1, 0, 1, 1});
  const Proportion wilson = WilsonInterval(3, 4);
  EXPECT_DOUBLE_EQ(share.lower, wilson.lower);
  EXPECT_DOUBLE_EQ(share.upper, wilson.upper);
  EXPECT_EQ(MeanInterval({}).count, 0);
  // By hand: the mean of 0.25 and 0.75 in turn, 100 of them.
  std::vector<double> values;
  for (int i = 0; i < 100; ++i) values.push_back(i % 2 ? 0.25 : 0.75);
  const double variance = 100.0 / 99 / 16, log_term = std::log(80.0);
  const double half = std::sqrt(2 * variance * log_term / 100) + 7 * log_term / (3 * 99);
  const Proportion mean = MeanInterval(values);
  EXPECT_DOUBLE_EQ(mean.value, 0.5);
  EXPECT_NEAR(mean.lower, 0.5 - half, 1e-12);
  EXPECT_NEAR(mean.upper, 0.5 + half, 1e-12);
  EXPECT_EQ(mean.count, 100);
}

}  // namespace
}  // namespace attune
