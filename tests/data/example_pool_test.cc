#include "server/data/example_pool.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Directions in the plane, by degrees.
std::vector<float> At(double degrees) {
  const double radians = degrees * M_PI / 180;
  return {static_cast<float>(std::cos(radians)), static_cast<float>(std::sin(radians))};
}

ExamplePool Plane(const std::vector<double>& degrees) {
  ExamplePool pool;
  for (double angle : degrees) {
    pool.rows.push_back({{"text", absl::StrCat(angle)}});
    pool.embeddings.push_back(At(angle));
  }
  return pool;
}

std::string Reason(const absl::Status& status) { return GetErrorDetails(status).reason; }

TEST(ExamplePoolTest, TheNearestComeAndTheNearestOfAllComesLast) {
  const ExamplePool pool = Plane({0, 80, 30, 50, 180});
  EXPECT_THAT(MostSimilar(pool, At(45), 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(MostSimilar(pool, At(5), 2), ElementsAre(2, 0));
  // The query's length does not count.
  std::vector<float> longer = At(45);
  for (float& value : longer) value *= 100;
  EXPECT_THAT(MostSimilar(pool, longer, 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(MostSimilar(pool, At(45), 0), IsEmpty());
  EXPECT_THAT(MostSimilar(pool, At(170), 9), ElementsAre(0, 2, 3, 1, 4));
}

TEST(ExamplePoolTest, TiesGoByIndexAndAnEmptyQueryTiesWithAll) {
  const ExamplePool pool = Plane({20, 20, 20, 90});
  EXPECT_THAT(MostSimilar(pool, At(20), 2), ElementsAre(1, 0));
  EXPECT_THAT(MostSimilar(pool, {}, 3), ElementsAre(2, 1, 0));
}

TEST(ExamplePoolTest, ARowThatIsAskedAboutIsNoExampleOfItself) {
  const ExamplePool pool = Plane({0, 10, 90});
  EXPECT_THAT(MostSimilar(pool, At(0), 2, 0), ElementsAre(2, 1));
  EXPECT_THAT(MostSimilar(pool, At(0), 9, 1), ElementsAre(2, 0));
}

TEST(ExamplePoolTest, NormalizedIsOfLengthOne) {
  std::vector<float> vector = {3, 4}, none = {0, 0};
  Normalize(&vector);
  Normalize(&none);
  EXPECT_THAT(vector, ElementsAre(0.6f, 0.8f));
  EXPECT_THAT(none, ElementsAre(0, 0));
}

TEST(ExamplePoolTest, EveryBitOfAnEmbeddingSurvives) {
  const std::vector<float> values = {0.1f, -0.f, 1e-42f, 3.4e38f, -1.f / 3};
  const auto back = DecodeEmbedding(EncodeEmbedding(values));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, values);
  EXPECT_TRUE(std::signbit((*back)[1]));
  EXPECT_EQ(EncodeEmbedding({1}), "AACAPw==");  // little-endian on every machine
  EXPECT_FALSE(DecodeEmbedding("!").ok());
  EXPECT_FALSE(DecodeEmbedding("AAA=").ok());  // two bytes
}

TEST(ExamplePoolTest, EmbeddingsAreChecked) {
  ExamplePool pool = Plane({0, 50});
  EXPECT_TRUE(CheckEmbeddings(pool, 2, "pool").ok());
  EXPECT_TRUE(CheckEmbeddings(pool, 0, "pool").ok());
  EXPECT_EQ(Reason(CheckEmbeddings(pool, 3, "pool")), "INVALID_FIELD");
  const auto field = [&](std::vector<float> second) {
    pool.embeddings[1] = std::move(second);
    const ErrorDetails details = GetErrorDetails(CheckEmbeddings(pool, 0, "pool"));
    return details.violations.empty() ? "" : details.violations[0].field;
  };
  EXPECT_EQ(field({1}), "pool.examples[1].embedding");
  EXPECT_EQ(field({1, 1}), "pool.examples[1].embedding");
  EXPECT_EQ(field({std::numeric_limits<float>::quiet_NaN(), 0}), "pool.examples[1].embedding");
  EXPECT_EQ(field({std::numeric_limits<float>::infinity(), 0}), "pool.examples[1].embedding");
  EXPECT_EQ(field({0, 1}), "");
  pool.embeddings.pop_back();
  EXPECT_EQ(Reason(CheckEmbeddings(pool, 2, "pool")), "INVALID_FIELD");
}

}  // namespace
}  // namespace attune
