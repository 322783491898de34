#include "server/evaluation/measures/paraphrase.h"

#include <set>

#include "absl/strings/ascii.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/random.h"
#include "server/evaluation/measures/word_pieces.h"

namespace attune {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using Rule = ParaphraseRule;

const char* const kTexts[] = {
    "I do not think the big film is worth $12.50, but it's 3 hours long.",
    "What's the capital of France?",
    "Don't you know that 2 + 2 = 4?",
    "Rates rose 0.25 points. Shares fell sharply in London. Traders bought 12,000 ounces of gold.",
    "{{text}} <b>See</b> https://example.org/A?b=1 or mail me@example.org about the API-2 error_code.",
    "Perhaps we will purchase 1,000 units; they are not costly.",
    "ÜBER die Brücke fährt der Zug.",
    "今日はいい天気です。",
    "",
    " ",
    "\t\n",
    "x",
    "...",
    "\xFF\xFE broken \xC3 bytes",
    "line one\nline two\n\nline three",
};

// Digits, with points and commas between them.
std::multiset<std::string> Numbers(const std::string& text) {
  const auto is_digit = [&](size_t i) { return i < text.size() && absl::ascii_isdigit(text[i]); };
  std::multiset<std::string> numbers;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!is_digit(i)) continue;
    std::string number;
    for (; is_digit(i) || ((text[i] == '.' || text[i] == ',') && is_digit(i + 1)); ++i) number += text[i];
    numbers.insert(number);
  }
  return numbers;
}

std::string Applied(Rule rule, absl::string_view text, uint64_t seed = 0) {
  return ApplyRule(rule, text, seed).value_or("");
}

TEST(ParaphraseTest, KeepsWhatItPromises) {
  for (const char* text : kTexts) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      std::set<std::string> seen = {text};
      for (const Paraphrase& variant : ListParaphrases(text, seed, true)) {
        EXPECT_TRUE(seen.insert(variant.text).second) << RuleName(variant.rule) << ": " << variant.text;
        EXPECT_EQ(Numbers(variant.text), Numbers(text)) << RuleName(variant.rule) << ": " << variant.text;
      }
    }
  }
}

TEST(ParaphraseTest, SameSeedSameVariants) {
  for (const char* text : kTexts) {
    const std::vector<Paraphrase> a = ListParaphrases(text, 9, true), b = ListParaphrases(text, 9, true);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].text, b[i].text);
  }
  std::set<std::string> prefixed;
  for (uint64_t seed = 0; seed < 30; ++seed) prefixed.insert(Applied(Rule::kPolitePrefix, "Why?", seed));
  EXPECT_EQ(prefixed.size(), 3);
}

TEST(ParaphraseTest, TyposOnlyIfAskedFor) {
  for (const Paraphrase& variant : ListParaphrases(kTexts[0], 1)) EXPECT_NE(variant.rule, Rule::kTypo);
  EXPECT_EQ(ListParaphrases(kTexts[0], 1, true).back().rule, Rule::kTypo);
}

TEST(ParaphraseTest, ChangesCaseOfWordsAlone) {
  EXPECT_EQ(Applied(Rule::kLowerCase, "Is the USA in NATO, Émile? See Http://X.y and 3PM"),
            "is the USA in NATO, émile? see Http://X.y and 3PM");
  EXPECT_EQ(Applied(Rule::kUpperCase, "a {name} on 3pm, they're für me_x"), "A {name} ON 3pm, THEY'RE FÜR me_x");
  EXPECT_EQ(ApplyRule(Rule::kLowerCase, "already low", 0), std::nullopt);
}

TEST(ParaphraseTest, ContractsAndExpands) {
  EXPECT_EQ(Applied(Rule::kContract, "Do not go; I am sure it is good, you cannot."),
            "Don't go; I'm sure it's good, you can't.");
  EXPECT_EQ(Applied(Rule::kContract, "It is not here."), "It isn't here.");
  EXPECT_EQ(ApplyRule(Rule::kContract, "I know who they are.", 0), std::nullopt);
  EXPECT_EQ(ApplyRule(Rule::kContract, "Do, not that. I (am) here", 0), std::nullopt);
  EXPECT_EQ(Applied(Rule::kExpand, "I'm sure they’re late. DON'T go, I can't."),
            "I am sure they are late. DO NOT go, I cannot.");
  EXPECT_EQ(ApplyRule(Rule::kExpand, "Don't you see it's Tom's?", 0), std::nullopt);
}

TEST(ParaphraseTest, ChangesTheLastMark) {
  EXPECT_EQ(Applied(Rule::kPunctuation, "It works."), "It works");
  EXPECT_EQ(Applied(Rule::kPunctuation, "It works"), "It works.");
  EXPECT_EQ(Applied(Rule::kPunctuation, "Why?"), "Why??");
  EXPECT_EQ(ApplyRule(Rule::kPunctuation, "It costs 5", 0), std::nullopt);
  EXPECT_EQ(ApplyRule(Rule::kPunctuation, "Label:", 0), std::nullopt);
}

TEST(ParaphraseTest, DoublesOneSpace) {
  EXPECT_THAT(Applied(Rule::kWhiteSpace, "one two three"), AnyOf("one  two three", "one two  three"));
  EXPECT_EQ(ApplyRule(Rule::kWhiteSpace, "1 000 000", 0), std::nullopt);
}

TEST(ParaphraseTest, SwapsSynonyms) {
  EXPECT_EQ(Applied(Rule::kSynonym, "Perhaps."), "Maybe.");
  EXPECT_THAT(Applied(Rule::kSynonym, "a big film"), AnyOf("a large film", "a big movie", "a large movie"));
  EXPECT_EQ(ApplyRule(Rule::kSynonym, "an awful day", 0), std::nullopt);  // "an terrible"
  EXPECT_EQ(Applied(Rule::kSynonym, "awful days"), "terrible days");
  EXPECT_EQ(ApplyRule(Rule::kSynonym, "nothing known", 0), std::nullopt);
}

TEST(ParaphraseTest, ReordersSentencesThatStandAlone) {
  EXPECT_EQ(Applied(Rule::kSentenceOrder, kTexts[3]),
            "Shares fell sharply in London. Rates rose 0.25 points. Traders bought 12,000 ounces of gold.");
  for (const char* text :
       {"One sentence. And another.", "Anna came. She left. Tom stayed.",
        "Shares fell. Why did shares fall? Rates rose.", "Mr. Smith came. Rates rose. Tom",
        "Shares fell.\nRates rose. Traders sold gold.", "He said \"Go on. Stop now. Turn round.\" today"}) {
    EXPECT_EQ(ApplyRule(Rule::kSentenceOrder, text, 0), std::nullopt) << text;
  }
}

TEST(ParaphraseTest, TyposSwapInnerLetters) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    EXPECT_THAT(Applied(Rule::kTypo, "seven great", seed), AnyOf("seven gerat", "seven graet"));
  }
  EXPECT_EQ(ApplyRule(Rule::kTypo, "thousand and one cat", 0), std::nullopt);
}

TEST(WordPiecesTest, JoinIsTheInverse) {
  for (const char* text : kTexts) EXPECT_EQ(Join(TakeApart(text)), text);
  CounterRandom random(1);
  for (int i = 0; i < 500; ++i) {
    std::string text(random.Below(30), ' ');
    for (char& c : text) c = random.Below(2) == 0 ? " .'(a1"[random.Below(6)] : static_cast<char>(random.Below(256));
    EXPECT_EQ(Join(TakeApart(text)), text);
    for (const Paraphrase& variant : ListParaphrases(text, i, true)) EXPECT_NE(variant.text, text);
  }
}

}  // namespace
}  // namespace attune
