#include "server/evaluation/measures/memorization.h"

#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Tokens(int count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

TEST(MemorizationTest, SplitsLongExamplesAtTheBeginning) {
  const std::vector<int32_t> tokens = Tokens(300);
  const ContinuationTest test = SplitForContinuation(tokens, {}).value();
  EXPECT_EQ(test.prompt.size(), 50);
  EXPECT_EQ(test.prompt.data(), tokens.data());
  EXPECT_EQ(test.continuation.size(), 50);
  EXPECT_EQ(test.continuation[0], 150);
}

TEST(MemorizationTest, ShortExamplesKeepTheProportion) {
  const std::vector<int32_t> tokens = Tokens(40);
  const ContinuationTest test = SplitForContinuation(tokens, {}).value();
  EXPECT_EQ(test.prompt.size(), 20);
  EXPECT_EQ(test.continuation.size(), 20);
  EXPECT_FALSE(SplitForContinuation(Tokens(30), {}).has_value());
  EXPECT_TRUE(SplitForContinuation(Tokens(31), {}).has_value());
  EXPECT_FALSE(SplitForContinuation({}, {}).has_value());
  const std::vector<int32_t> two = Tokens(2);
  EXPECT_THAT(SplitForContinuation(two, {50, 50, 1})->continuation, ElementsAre(101));
  EXPECT_FALSE(SplitForContinuation(Tokens(1), {50, 50, 1}).has_value());
}

TEST(MemorizationTest, CountsExactContinuations) {
  const std::vector<int32_t> tokens = Tokens(8);
  const ContinuationTest test = SplitForContinuation(tokens, {4, 4, 2}).value();
  const std::vector<int32_t> same = {104, 105, 106, 107, 1}, shorter = {104, 105, 106}, other = {104, 105, 9, 107};
  EXPECT_TRUE(IsMemorized(test, same));
  EXPECT_FALSE(IsMemorized(test, shorter));
  EXPECT_FALSE(IsMemorized(test, other));
  const std::vector<ContinuationTest> tests(3, test);
  const std::vector<absl::Span<const int32_t>> generated = {same, shorter, other};
  const Proportion rate = MemorizationRate(tests, generated);
  EXPECT_NEAR(rate.value, 1.0 / 3, 1e-12);
  EXPECT_EQ(rate.count, 3);
}

}  // namespace
}  // namespace attune
