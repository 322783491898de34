#include "server/evaluation/probe/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "server/evaluation/probe/embedded.h"

namespace attune {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

std::string ReadSource(const std::string& name) {
  std::ifstream file(absl::StrCat(ATTUNE_SOURCE_DIR, "/server/evaluation/probe/", name), std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

const std::string& Right(const ProbeItem& item) { return item.choices[item.answer]; }

TEST(BuiltInProbeTest, IsTheFilesOfTheSource) {
  EXPECT_EQ(EmbeddedProbeItems(), ReadSource("items.jsonl"));
  EXPECT_EQ(EmbeddedProbeText(), ReadSource("text.txt"));
}

TEST(BuiltInProbeTest, EveryAreaHasItemsOfEveryLevel) {
  std::map<std::string, std::map<int, int>> counts;
  for (const ProbeItem& item : BuiltInProbe()) ++counts[item.area][item.level];
  EXPECT_THAT(counts, SizeIs(4));
  for (const char* area : {"knowledge", "arithmetic", "instruction", "language"}) {
    int all = 0;
    for (int level = 1; level <= 3; ++level) {
      EXPECT_GE(counts[area][level], 25) << area << level;
      all += counts[area][level];
    }
    EXPECT_GE(all, 90) << area;
  }
}

TEST(BuiltInProbeTest, NoItemComesTwice) {
  std::set<std::string> ids, prompts;
  for (const ProbeItem& item : BuiltInProbe()) {
    EXPECT_TRUE(ids.insert(item.id).second) << item.id;
    EXPECT_TRUE(absl::StartsWith(item.id, absl::StrCat(item.area, "-"))) << item.id;
    EXPECT_TRUE(prompts.insert(item.prompt).second) << item.id;
  }
}

// `prompt` with every number as '#' and every quoted text as '"'.
std::string Masked(const std::string& prompt) {
  std::string masked;
  bool quoted = false;
  for (char c : prompt) {
    if (c == '"') quoted = !quoted;
    const char shown = absl::ascii_isdigit(c) ? '#' : c;
    if (!quoted && !(shown == '#' && !masked.empty() && masked.back() == '#')) masked += shown;
  }
  return masked;
}

TEST(BuiltInProbeTest, NoPromptIsRepeatedWithOtherNumbersOrQuotes) {
  std::map<std::string, int> templates;
  for (const ProbeItem& item : BuiltInProbe()) ++templates[Masked(item.prompt)];
  for (const auto& [masked, count] : templates) EXPECT_LE(count, 10) << masked;
}

TEST(BuiltInProbeTest, ChoicesContinueThePrompt) {
  for (const ProbeItem& item : BuiltInProbe()) {
    EXPECT_NE(item.prompt.back(), ' ') << item.id;
    for (const std::string& choice : item.choices) {
      EXPECT_EQ(choice[0] == ' ', item.prompt.back() != '\n') << item.id << choice;
      EXPECT_TRUE(choice.size() > 1 && choice[1] != ' ' && choice.back() != ' ') << item.id << choice;
    }
  }
}

TEST(BuiltInProbeTest, ChoicesAreFewDifferentAndOfSimilarLength) {
  for (const ProbeItem& item : BuiltInProbe()) {
    EXPECT_THAT(item.choices, SizeIs(AllOf(Ge(2), Le(5)))) << item.id;
    EXPECT_EQ(std::set<std::string>(item.choices.begin(), item.choices.end()).size(), item.choices.size()) << item.id;
    const auto [shortest, longest] =
        std::minmax_element(item.choices.begin(), item.choices.end(),
                            [](const std::string& a, const std::string& b) { return a.size() < b.size(); });
    EXPECT_LE(longest->size(), shortest->size() + 14) << item.id;
    EXPECT_LE(longest->size(), 40) << item.id;
  }
}

TEST(BuiltInProbeTest, AnswersAreSpreadOverThePositions) {
  std::map<size_t, std::vector<int>> counts;  // by the number of choices
  for (const ProbeItem& item : BuiltInProbe()) {
    std::vector<int>& of = counts[item.choices.size()];
    of.resize(item.choices.size());
    ASSERT_TRUE(item.answer >= 0 && item.answer < static_cast<int>(of.size())) << item.id;
    ++of[item.answer];
  }
  const std::map<size_t, double> limit = {{2, 3.84}, {3, 5.99}, {4, 7.81}, {5, 9.49}};  // 95% quantiles
  for (const auto& [choices, of] : counts) {
    double expected = 0, chi_square = 0;
    for (int count : of) expected += static_cast<double>(count) / choices;
    for (int count : of) chi_square += (count - expected) * (count - expected) / expected;
    EXPECT_LE(chi_square, limit.at(choices)) << choices << " choices";
  }
}

// How often the right choice alone comes first in the order of `less`, against how often it would by chance.
std::pair<int, double> RightComesFirst(bool (*less)(size_t, size_t)) {
  int right = 0;
  double expected = 0;
  for (const ProbeItem& item : BuiltInProbe()) {
    int first = 0;  // choices that no other comes before or ties with
    for (const std::string& choice : item.choices) {
      const bool alone = std::all_of(item.choices.begin(), item.choices.end(), [&](const std::string& other) {
        return &other == &choice || less(choice.size(), other.size());
      });
      first += alone;
      right += alone && choice == Right(item);
    }
    expected += static_cast<double>(first) / item.choices.size();
  }
  return {right, expected};
}

TEST(BuiltInProbeTest, LengthDoesNotGiveTheAnswerAway) {
  const auto [longest, by_chance_longest] = RightComesFirst([](size_t a, size_t b) { return a > b; });
  const auto [shortest, by_chance_shortest] = RightComesFirst([](size_t a, size_t b) { return a < b; });
  EXPECT_NEAR(longest, by_chance_longest, 3 * std::sqrt(by_chance_longest));
  EXPECT_NEAR(shortest, by_chance_shortest, 3 * std::sqrt(by_chance_shortest));
}

TEST(BuiltInProbeTest, TextHasParagraphsOfManyKinds) {
  EXPECT_GE(BuiltInProbeText().size(), 12);
  size_t words = 0;
  for (const std::string& paragraph : BuiltInProbeText()) {
    const size_t here =
        std::vector<std::string>(absl::StrSplit(paragraph, absl::ByAnyChar(" \n"), absl::SkipEmpty())).size();
    EXPECT_GE(here, 80) << paragraph;
    EXPECT_LE(here, 260) << paragraph;
    EXPECT_FALSE(absl::StrContains(paragraph, "\n\n"));
    words += here;
  }
  EXPECT_GE(words, 3000);
}

constexpr char kGood[] = R"({"id":"a","area":"x","prompt":"One,","choices":[" two"," six"],"answer":1,"level":2})";

// kGood with the first `from` replaced.
std::string Changed(absl::string_view from, absl::string_view to) {
  std::string line = kGood;
  return line.replace(line.find(from.data(), 0, from.size()), from.size(), std::string(to));
}

TEST(ParseProbeTest, ReadsEveryField) {
  const auto items = ParseProbe(absl::StrCat("\xef\xbb\xbf", kGood, "\r\n \n", Changed(R"("a")", R"("b","more":[1])")));
  ASSERT_TRUE(items.ok()) << items.status();
  ASSERT_THAT(*items, SizeIs(2));
  const ProbeItem& item = items->front();
  EXPECT_EQ(item.id, "a");
  EXPECT_EQ(item.area, "x");
  EXPECT_EQ(item.prompt, "One,");
  EXPECT_THAT(item.choices, ElementsAre(" two", " six"));
  EXPECT_EQ(item.answer, 1);
  EXPECT_EQ(item.level, 2);
  EXPECT_EQ(items->back().id, "b");
}

void ExpectFault(const std::string& second_line, const std::string& field, const std::string& message) {
  const absl::Status status = ParseProbe(absl::StrCat(kGood, "\n", second_line)).status();
  const ErrorDetails details = GetErrorDetails(status);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << second_line;
  EXPECT_EQ(details.reason, "BAD_PROBE") << second_line;
  const auto named = details.metadata.find("field");
  EXPECT_EQ(named == details.metadata.end() ? "" : named->second, field) << status;
  EXPECT_EQ(details.metadata.at("line"), "2") << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("Line 2"), HasSubstr(message), HasSubstr(field)));
}

TEST(ParseProbeTest, NamesTheLineThatIsNoObject) {
  ExpectFault("{", "", "JSON");
  ExpectFault("[]", "", "object");
  ExpectFault(Changed("One", "\xff"), "", "UTF-8");
}

TEST(ParseProbeTest, NamesTheFieldThatIsMissing) {
  for (const char* field : {"id", "area", "prompt", "choices", "answer", "level"}) {
    ExpectFault(Changed(absl::StrCat("\"", field, "\""), "\"other\""), field, "is missing");
  }
}

TEST(ParseProbeTest, NamesTheFieldThatIsWrong) {
  ExpectFault(kGood, "id", "earlier line");
  ExpectFault(Changed("\"a\"", "7"), "id", "is no text");
  ExpectFault(Changed("One,", ""), "prompt", "is empty");
  ExpectFault(Changed("[\" two\",\" six\"]", "\" two\""), "choices", "is no list of 2 to 16 texts");
  ExpectFault(Changed("\" two\",", ""), "choices", "is no list of 2 to 16 texts");
  ExpectFault(Changed("\" two\"", "\" six\""), "choices[1]", "equals choices[0]");
  ExpectFault(Changed("\" six\"", "null"), "choices[1]", "is no text");
  for (const char* answer : {"2", "-1", "1.0", "true", "18446744073709551616", "4294967297"}) {
    ExpectFault(Changed("\"answer\":1", absl::StrCat("\"answer\":", answer)), "answer", "is no integer from 0 to 1");
  }
  ExpectFault(Changed("\"level\":2", "\"level\":0"), "level", "is no integer from 1 to 3");
  ExpectFault(Changed("\"level\":2", "\"level\":\"2\""), "level", "is no integer from 1 to 3");
}

TEST(ParseProbeTest, SizesAreLimited) {
  EXPECT_TRUE(ParseProbe(Changed("One,", std::string(kMaxProbePromptBytes, 'p'))).ok());
  ExpectFault(Changed("\"a\"", absl::StrCat("\"", std::string(kMaxProbeNameBytes + 1, 'i'), "\"")), "id", "at most 64");
  ExpectFault(Changed("One,", std::string(kMaxProbePromptBytes + 1, 'p')), "prompt", "at most 8192");
  ExpectFault(Changed(" two", std::string(kMaxProbeChoiceBytes + 1, 'c')), "choices[0]", "at most 1024");
  std::string many;
  for (size_t i = 0; i < kMaxProbeItems; ++i)
    absl::StrAppend(&many, Changed("\"a\"", absl::StrCat("\"", i, "\"")), "\n");
  EXPECT_TRUE(ParseProbe(many).ok());
  const absl::Status status = ParseProbe(absl::StrCat(many, kGood)).status();
  EXPECT_EQ(GetErrorDetails(status).metadata.at("line"), absl::StrCat(kMaxProbeItems + 1));
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 10000 items"));
  EXPECT_THAT(std::string(ParseProbe(std::string(kMaxProbeBytes + 1, ' ')).status().message()), HasSubstr("16777216"));
}

TEST(ParseProbeTest, WantsAnItem) {
  for (const char* text : {"", "\n \n", "\xef\xbb\xbf"}) {
    EXPECT_EQ(GetErrorDetails(ParseProbe(text).status()).reason, "BAD_PROBE");
  }
}

}  // namespace
}  // namespace attune
