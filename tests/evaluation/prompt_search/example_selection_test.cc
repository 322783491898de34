#include "server/evaluation/prompt_search/example_selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace attune {
namespace {

using ::testing::IsEmpty;

std::vector<int64_t> All(int64_t count) {
  std::vector<int64_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

TEST(ExampleSelectionTest, LabelsTakeTurns) {
  std::vector<std::string> labels(40, "common");
  labels[7] = labels[21] = "rare";
  labels[30] = "single";
  const std::vector<int64_t> chosen = SelectByLabel(labels, All(40), 6, 5);
  std::map<std::string, int> counts;
  for (int64_t row : chosen) ++counts[labels[row]];
  EXPECT_EQ(counts, (std::map<std::string, int>{{"common", 3}, {"rare", 2}, {"single", 1}}));
  EXPECT_EQ(std::set<int64_t>(chosen.begin(), chosen.end()).size(), 6);
  EXPECT_EQ(chosen, SelectByLabel(labels, All(40), 6, 5));
  EXPECT_NE(chosen, SelectByLabel(labels, All(40), 6, 6));
}

TEST(ExampleSelectionTest, OnlyEligibleRowsAndNoMoreThanThereAre) {
  const std::vector<std::string> labels = {"a", "b", "a", "b"};
  const std::vector<std::vector<float>> features(4, TextFeatures("word"));
  for (const auto& chosen : {SelectByLabel(labels, {1, 2}, 9, 1), SelectDiverse(features, {1, 2}, 9, 1)}) {
    EXPECT_THAT(chosen, ::testing::UnorderedElementsAre(1, 2));
  }
  EXPECT_THAT(SelectByLabel(labels, {}, 3, 1), IsEmpty());
  EXPECT_THAT(SelectDiverse(features, {}, 3, 1), IsEmpty());
  EXPECT_THAT(SelectDiverse(features, {1, 2}, 0, 1), IsEmpty());
}

TEST(ExampleSelectionTest, DiverseRowsAreOneOfEachCluster) {
  std::vector<std::vector<float>> features;
  const char* topics[] = {"ships sail the sea", "wheat corn and grain", "interest rates of banks"};
  for (int i = 0; i < 30; ++i) features.push_back(TextFeatures(topics[i % 3]));
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<int64_t> chosen = SelectDiverse(features, All(30), 3, seed);
    std::set<int64_t> clusters;
    for (int64_t row : chosen) clusters.insert(row % 3);
    EXPECT_EQ(clusters.size(), 3) << seed;
  }
}

TEST(ExampleSelectionTest, FeaturesAreOfWordsNotOfOrderOrCase) {
  EXPECT_EQ(TextFeatures("Ships, sail!"), TextFeatures("sail ships"));
  EXPECT_NE(TextFeatures("ships sail"), TextFeatures("ships"));
  double squares = 0;
  for (float value : TextFeatures("one two two")) squares += value * value;
  EXPECT_NEAR(squares, 1, 1e-6);
  for (float value : TextFeatures(" ,. ")) EXPECT_EQ(value, 0);
}

}  // namespace
}  // namespace attune
