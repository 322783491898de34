#include "server/comparison/text_measures.h"

#include <algorithm>
#include <optional>

#include <gtest/gtest.h>

#include "common/error.h"
#include "server/comparison/answer_scorer.h"
#include "server/comparison/measure_names.h"

namespace attune {
namespace {

using Texts = std::vector<std::string>;

double Score(QualityMetric metric, const std::string& expected, const std::string& answer, absl::string_view pattern = "") {
  const absl::StatusOr<AnswerScorer> scorer = AnswerScorer::Create(metric, pattern);
  EXPECT_TRUE(scorer.ok()) << scorer.status();
  return scorer->Score(expected, answer);
}

std::optional<Measure> Find(const std::vector<Measure>& measures, absl::string_view name) {
  const auto found = std::find_if(measures.begin(), measures.end(), [&](const Measure& m) { return m.name == name; });
  return found == measures.end() ? std::nullopt : std::optional<Measure>(*found);
}

TEST(AnswerScorerTest, EachMetricHasItsOwnEyes) {
  EXPECT_EQ(Score(QualityMetric::kExactMatch, "The cat.", " The cat.\n"), 1);
  EXPECT_EQ(Score(QualityMetric::kExactMatch, "The cat.", "the cat"), 0);
  EXPECT_EQ(Score(QualityMetric::kTokenF1, "The cat.", "cat"), 1) << "case, punctuation and articles do not count";
  // Two of four words are shared: precision and recall are a half.
  EXPECT_NEAR(Score(QualityMetric::kTokenF1, "red green blue grey", "red green black white"), 0.5, 1e-9);
  // Longest common subsequence "a c" of three and two words: precision 1, recall 2/3.
  EXPECT_NEAR(Score(QualityMetric::kRougeL, "a b c", "a c"), 0.8, 1e-9);
  EXPECT_EQ(Score(QualityMetric::kChrf, "abc", "xyz"), 0);
  EXPECT_NEAR(Score(QualityMetric::kChrf, "abcdefgh", "abcdefgh"), 1, 1e-9);
  EXPECT_EQ(Score(QualityMetric::kNumberMatch, "The answer is 1,200.", "12 * 100 = 1200"), 1);
  EXPECT_EQ(Score(QualityMetric::kNumberMatch, "12", "12.5"), 0);
  EXPECT_EQ(Score(QualityMetric::kJsonMatch, "{\"a\":1,\"b\":[2]}", "{ \"b\": [2.0], \"a\": 1 }"), 1);
  EXPECT_EQ(Score(QualityMetric::kJsonMatch, "{\"a\":1}", "{\"a\":1"), 0);
  EXPECT_EQ(Score(QualityMetric::kPatternMatch, "ignored", "A-12", "[A-Z]-\\d+"), 1);
  EXPECT_EQ(Score(QualityMetric::kPatternMatch, "A-12", "see A-12", "[A-Z]-\\d+"), 0) << "the whole answer must match";
  EXPECT_EQ(GetErrorDetails(AnswerScorer::Create(QualityMetric::kPatternMatch, "(").status()).reason, "BAD_PATTERN");
}

TEST(TextMeasuresTest, TheMetricSuitsTheAnswers) {
  EXPECT_EQ(MetricFor(Texts{"Paris", "in the year"}), QualityMetric::kExactMatch);
  EXPECT_EQ(MetricFor(Texts{"It was a dark and stormy night.", "Paris"}), QualityMetric::kRougeL);
  EXPECT_EQ(MetricFor(Texts{"{\"a\": 1}", "[1, 2]"}), QualityMetric::kJsonMatch);
  EXPECT_EQ(MetricFor(Texts{"12", "true"}), QualityMetric::kExactMatch) << "valid JSON, but hardly meant as such";
}

TEST(TextMeasuresTest, AverageOverRowsAndRowsThatDidNotFitCountNothing) {
  const Texts expected = {"the red fox", "a blue whale swims by", ""};
  const Texts answers = {"the red fox", "a blue whale dives by", ""};
  const std::vector<Measure> measures = TextMeasures(expected, answers, "");
  EXPECT_NEAR(Find(measures, kExactMatch)->value, 1.0 / 3, 1e-9);
  EXPECT_EQ(Find(measures, kExactMatch)->count, 3);
  EXPECT_NEAR(Find(measures, kTokenF1)->value, (1 + 0.75) / 3, 1e-9) << "three of four words, the article aside";
  EXPECT_EQ(Find(measures, kBleu)->count, 2);
  EXPECT_GT(Find(measures, kBleu)->upper, Find(measures, kBleu)->lower);
  EXPECT_LE(Find(measures, kRougeL)->lower, Find(measures, kRougeL)->value);
  EXPECT_FALSE(Find(measures, kJsonValid).has_value());
  EXPECT_FALSE(Find(measures, kPatternMatch).has_value());
}

TEST(TextMeasuresTest, JsonAndPatternsWhereTheyMakeSense) {
  const Texts expected = {"{\"a\":1}", "{\"a\":2}"};
  const Texts answers = {"{\"a\":3}", "a: 2"};
  const std::vector<Measure> measures = TextMeasures(expected, answers, "\\{.*\\}");
  EXPECT_EQ(Find(measures, kJsonValid)->value, 0.5);
  EXPECT_EQ(Find(measures, kPatternMatch)->value, 0.5);
  EXPECT_EQ(Find(measures, kExactMatch)->value, 0);
}

}  // namespace
}  // namespace attune
