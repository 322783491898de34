#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/bleu.h"
#include "server/evaluation/measures/characters.h"
#include "server/evaluation/measures/chrf.h"
#include "server/evaluation/measures/exact_match.h"
#include "server/evaluation/measures/random.h"
#include "server/evaluation/measures/rouge.h"
#include "server/evaluation/measures/token_f1.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

// Any bytes, valid UTF-8 or not.
std::string RandomBytes(CounterRandom* random) {
  std::string out(random->Below(60), ' ');
  for (char& c : out) c = random->Below(3) == 0 ? static_cast<char>(random->Below(256)) : "ab .\n-&"[random->Below(7)];
  return out;
}

double ChrfOf(const std::string& answer, const std::string& reference) {
  return ChrfScore(CountChrf(answer, {reference}));
}

TEST(CharactersTest, CountsWhatIsNoUtf8ByTheByte) {
  EXPECT_THAT(Characters("aé€😀"), ElementsAre("a", "é", "€", "😀"));
  EXPECT_THAT(Characters("\xC3"), ElementsAre("\xC3"));
  EXPECT_THAT(Characters("\xE2\x82x\xFF"), ElementsAre("\xE2", "\x82", "x", "\xFF"));
  EXPECT_THAT(SplitWords(" a\u00a0b\u3000 c\x1c"), ElementsAre("a", "b", "c"));
}

TEST(CharactersTest, ChangesCase) {
  EXPECT_EQ(LowerCase("ÄÖÜ Straße ΑΒΓ ДЖ X"), "äöü straße αβγ дж x");
  EXPECT_EQ(UpperCase("äöü é x1"), "ÄÖÜ É X1");
  EXPECT_EQ(LowerCase("A\xFF\xC3Z"), "a\xFF\xC3z");
}

TEST(ExactMatchTest, FormsDiffer) {
  EXPECT_TRUE(ExactMatch(" yes\n", {"yes"}, AnswerForm::kStripped));
  EXPECT_FALSE(ExactMatch("Yes.", {"yes"}, AnswerForm::kStripped));
  EXPECT_TRUE(ExactMatch("The Yes.", {"no", "yes"}, AnswerForm::kNormalized));
  EXPECT_FALSE(ExactMatch("theory", {"ory"}, AnswerForm::kNormalized));
  EXPECT_FALSE(ExactMatch("yes", {}, AnswerForm::kNormalized));
}

TEST(TextMeasuresTest, StayInRangeAndKnowThemselves) {
  CounterRandom random(3);
  for (int i = 0; i < 300; ++i) {
    const std::string a = RandomBytes(&random), b = RandomBytes(&random);
    for (double score : {TokenF1(a, {b}), RougeL(a, {b}).f1, ChrfOf(a, b), BleuScore(CountBleu(a, {b}))}) {
      EXPECT_GE(score, 0);
      EXPECT_LE(score, 1 + 1e-12);
    }
    EXPECT_EQ(TokenF1(a, {a}), 1);
    EXPECT_TRUE(ExactMatch(a, {b, a}, AnswerForm::kNormalized));
    EXPECT_NEAR(TokenF1(a, {b}), TokenF1(b, {a}), 1e-12);  // F1 is symmetric, and so is ROUGE-L's
    EXPECT_NEAR(RougeL(a, {b}).f1, RougeL(b, {a}).f1, 1e-12);
    EXPECT_GE(TokenF1(a, {b, a}), TokenF1(a, {b}));  // more references never cost
  }
  EXPECT_NEAR(BleuScore(CountBleu("one two three four five", {"one two three four five"})), 1, 1e-12);
  EXPECT_NEAR(ChrfOf("one two", "one two"), 1, 1e-12);
}

TEST(TextMeasuresTest, ChrfWeighsRecall) {
  EXPECT_GT(ChrfOf("the whole long answer", "the whole"), ChrfOf("the whole", "the whole long answer"));
}

TEST(TextMeasuresTest, MayRunSideBySide) {
  std::vector<std::thread> threads;
  std::vector<std::string> normalized(4);
  for (std::string& out : normalized) {
    threads.emplace_back([&out] {
      for (int i = 0; i < 50; ++i) out = NormalizeAnswer("The ÄRGER of a day.");
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& out : normalized) EXPECT_EQ(out, "ärger of day");
}

TEST(BleuTest, StatisticsAddUp) {
  BleuStatistics sum = CountBleu("a b c d e", {"a b c d e"});
  sum += CountBleu("x y z", {"p q"});
  EXPECT_EQ(sum.answer_words, 8);
  EXPECT_EQ(sum.reference_words, 7);
  EXPECT_THAT(sum.matches, ElementsAre(5, 4, 3, 2));
  EXPECT_THAT(sum.totals, ElementsAre(8, 6, 4, 2));
  EXPECT_EQ(BleuScore(BleuStatistics()), 0);
}

TEST(BleuTest, ShortAnswersAreCutBack) {
  const double whole = BleuScore(CountBleu("a b c d e f", {"a b c d e f"}));
  EXPECT_LT(BleuScore(CountBleu("a b c d", {"a b c d e f"})), 0.7 * whole);
}

}  // namespace
}  // namespace attune
