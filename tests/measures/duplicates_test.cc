#include "server/evaluation/measures/duplicates.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/stable_hash.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/leakage.h"
#include "server/evaluation/measures/minhash.h"
#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string RandomText(CounterRandom* random, int words) {
  std::string text;
  for (int i = 0; i < words; ++i) absl::StrAppend(&text, i == 0 ? "" : " ", "word", random->Below(5000));
  return text;
}

// Two sets of shingles of the given sizes.
std::pair<std::vector<uint64_t>, std::vector<uint64_t>> Overlapping(CounterRandom* random, int common, int own) {
  std::set<uint64_t> a, b;
  for (int i = 0; i < common; ++i) a.insert(random->Bits());
  b = a;
  for (int i = 0; i < own; ++i) a.insert(random->Bits()), b.insert(random->Bits());
  return {{a.begin(), a.end()}, {b.begin(), b.end()}};
}

TEST(DuplicatesTest, CaseAndSpaceDoNotCount) {
  const std::vector<std::string> texts = {"A text", "other", " a\tTEXT\n", "a text.", "ÄRGER", "ärger"};
  EXPECT_THAT(FirstOccurrences(texts), ElementsAre(0, 1, 0, 3, 4, 4));
  EXPECT_NE(NormalizedHash("1.5"), NormalizedHash("15"));
  EXPECT_NE(NormalizedHash("ab c"), NormalizedHash("a bc"));
}

TEST(DuplicatesTest, HashesAreTheSameEverywhere) {
  // FNV-1a's published value for "a" is 0xAF63DC4C8601EC8C.
  EXPECT_EQ(HashText("a"), MixBits(0xAF63DC4C8601EC8CULL));
}

TEST(MinHashTest, EstimatesWithinItsError) {
  CounterRandom random(6);
  for (const auto& [common, own] : {std::pair(10, 90), {50, 50}, {90, 10}, {100, 0}, {0, 100}}) {
    double sum = 0;
    const double truth = common / (common + 2.0 * own);
    const int kTrials = 50;
    for (int trial = 0; trial < kTrials; ++trial) {
      const auto [a, b] = Overlapping(&random, common, own);
      EXPECT_EQ(Jaccard(a, b), truth);
      const double estimate = EstimateJaccard(MakeMinHash(a), MakeMinHash(b));
      EXPECT_NEAR(estimate, truth, 5 * std::sqrt(truth * (1 - truth) / 128) + 1e-12);
      sum += estimate;
    }
    // Unbiased: the mean is nearer by the root of the trials.
    EXPECT_NEAR(sum / kTrials, truth, 5 * std::sqrt(truth * (1 - truth) / 128 / kTrials) + 1e-12);
  }
}

TEST(MinHashTest, ShinglesAreOfThreeWords) {
  EXPECT_THAT(Shingles("a b c d"), SizeIs(2));
  EXPECT_EQ(Shingles("A, (b) c!"), Shingles("a b c"));
  EXPECT_THAT(Shingles("one two"), SizeIs(1));
  EXPECT_NE(Shingles("one two"), Shingles("one"));
  EXPECT_THAT(Shingles(" ... "), IsEmpty());
  EXPECT_THAT(Shingles("a a a a a"), SizeIs(1));
}

TEST(MinHashTest, FindsNearDuplicates) {
  CounterRandom random(9);
  NearDuplicateIndex index(0.7);
  std::vector<std::string> texts;
  for (int i = 0; i < 100; ++i) texts.push_back(RandomText(&random, 60));
  for (const std::string& text : texts) index.Add(text);
  for (int i = 0; i < 100; ++i) {
    // One word changed at the end costs one shingle of 58; one in the middle three.
    const auto match = index.Find(absl::StrCat("different ", texts[i]));
    ASSERT_TRUE(match.has_value());
    EXPECT_EQ(match->index, i);
    EXPECT_NEAR(match->similarity, 58.0 / 59, 1e-12);
    EXPECT_FALSE(index.Find(RandomText(&random, 60)).has_value());
  }
  EXPECT_FALSE(index.Find("").has_value());
}

TEST(LeakageTest, CountsExactAndNear) {
  CounterRandom random(10);
  std::vector<std::string> training, test;
  for (int i = 0; i < 20; ++i) training.push_back(RandomText(&random, 40));
  test = {absl::StrCat(" ", training[3], "\n"), RandomText(&random, 40), absl::StrCat(training[5], " more"), "short"};
  const Leakage leakage = FindLeakage(training, test);
  EXPECT_EQ(leakage.share.value, 0.5);
  EXPECT_EQ(leakage.share.count, 4);
  ASSERT_THAT(leakage.rows, SizeIs(2));
  EXPECT_TRUE(leakage.rows[0].exact);
  EXPECT_EQ(leakage.rows[0].training_row, 3);
  EXPECT_FALSE(leakage.rows[1].exact);
  EXPECT_EQ(leakage.rows[1].test_row, 2);
  EXPECT_EQ(leakage.rows[1].training_row, 5);
  EXPECT_GT(leakage.rows[1].similarity, 0.8);
  EXPECT_THAT(FindLeakage({}, test).rows, IsEmpty());
  EXPECT_EQ(FindLeakage(training, {}).share.count, 0);
}

}  // namespace
}  // namespace attune
