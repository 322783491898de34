#include "server/evaluation/prompt_search/candidate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/template.h"
#include "server/evaluation/prompt_search/candidate_pool.h"
#include "server/evaluation/prompt_search/example_selection.h"
#include "server/evaluation/prompt_search/search_memo.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

TEST(PromptFormatTest, TheDatasOwnComesFirst) {
  auto formats = MakeFormats("{{prompt}}", "{{completion}}");
  ASSERT_TRUE(formats.ok());
  ASSERT_EQ(formats->size(), 4);
  EXPECT_EQ((*formats)[0], (PromptFormat{"data", "{{prompt}}", "{{completion}}"}));
  EXPECT_EQ((*formats)[1], (PromptFormat{"input-output", "Input: {{prompt}}\nOutput:", " {{completion}}"}));
  EXPECT_EQ((*formats)[3].input_template, "Q: {{prompt}}\nA:");
}

TEST(PromptFormatTest, SeveralVariablesKeepTheirNames) {
  auto formats = MakeFormats("{{title}}: {{body}}", " {{a}}/{{b}}");
  ASSERT_TRUE(formats.ok());
  EXPECT_EQ((*formats)[2].input_template, "title: {{title}}\nbody: {{body}}\nLabel:");
  EXPECT_EQ((*formats)[2].output_template, " {{a}}/{{b}}");
  EXPECT_EQ(MakeFormats("no variable", "x")->size(), 1);
  EXPECT_FALSE(MakeFormats("{{", "x").ok());
  // The data's own is not there twice.
  EXPECT_EQ(MakeFormats("Text: {{text}}\nLabel:", " {{label}}")->size(), 3);
}

SearchData MoodData() {
  SearchData data;
  for (int i = 0; i < 20; ++i) {
    Row row;
    row.columns = {{"text", absl::StrCat("text ", i)}, {"label", i % 2 ? "glad" : "sad"}, {"secret", "s"}};
    data.train_answers.push_back(row.columns["label"]);
    data.features.push_back(TextFeatures(row.columns["text"]));
    data.eligible.push_back(i);
    data.train.push_back(std::move(row));
  }
  data.labels = {"glad", "sad"};
  data.formats = *MakeFormats("Text: {{text}}\nMood:", " {{label}}");
  return data;
}

TEST(CandidateTest, KeepsTheColumnsThatItUses) {
  const SearchData data = MoodData();
  auto prompt = ToTextPrompt({"Do it.", data.formats[0], {3, 1}, "x"}, data.train);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_THAT(prompt->examples, ElementsAre(Columns{{"text", "text 3"}, {"label", "glad"}},
                                            Columns{{"text", "text 1"}, {"label", "glad"}}));
  EXPECT_EQ(*MakePromptTemplate(*prompt),
            "Do it.\n\nText: text 3\nMood: glad\n\nText: text 1\nMood: glad\n\nText: {{text}}\nMood:");
}

TEST(CandidateTest, KeysAreOfWhatTheModelReads) {
  const SearchData data = MoodData();
  const auto key = [&](Candidate candidate) { return KeyOf(*ToTextPrompt(candidate, data.train)); };
  const Candidate candidate{"Do it.", data.formats[0], {3, 1}, "x"};
  Candidate same = candidate, turned = candidate, other = candidate;
  same.origin = "y";
  turned.examples = {1, 3};
  other.format = data.formats[1];
  EXPECT_EQ(key(candidate), key(same));
  EXPECT_NE(key(candidate), key(turned));
  EXPECT_NE(key(candidate), key(other));
}

TEST(CandidatePoolTest, FirstTheBaselineAndTheGivenThenMixturesNoneTwice) {
  const SearchData data = MoodData();
  SearchSettings settings;
  settings.instructions = {"Given one."};
  settings.candidates = 12;
  settings.max_examples = 4;
  settings.seed = 3;
  CandidatePool pool(&data, &settings);
  const std::vector<Candidate> first = pool.First({"A proposed one."});
  ASSERT_EQ(first.size(), 12);
  EXPECT_EQ(first[0].origin, "baseline");
  EXPECT_EQ(first[0].instruction, "");
  EXPECT_TRUE(first[0].examples.empty());
  EXPECT_EQ(first[1].instruction, "Given one.");
  const std::vector<Candidate> next = pool.Next({first[3], first[5]}, {"Another proposed one."});
  std::set<std::string> keys, origins;
  for (const auto& round : {first, next}) {
    for (const Candidate& candidate : round) {
      EXPECT_LE(candidate.examples.size(), 4);
      EXPECT_TRUE(keys.insert(KeyOf(*ToTextPrompt(candidate, data.train))).second);
      origins.insert(candidate.origin);
    }
  }
  EXPECT_EQ(next.size(), 12);
  EXPECT_TRUE(origins.count("proposed") && origins.count("examples") && origins.count("edited"));
}

TEST(CandidatePoolTest, TheSeedDecidesAndNoExamplesMeansNone) {
  const SearchData data = MoodData();
  SearchSettings settings;
  settings.candidates = 8;
  settings.max_examples = 0;
  const auto keys = [&](uint64_t seed) {
    settings.seed = seed;
    CandidatePool pool(&data, &settings);
    std::vector<std::string> out;
    for (const Candidate& candidate : pool.First({})) {
      EXPECT_TRUE(candidate.examples.empty());
      out.push_back(KeyOf(*ToTextPrompt(candidate, data.train)));
    }
    return out;
  };
  EXPECT_EQ(keys(1), keys(1));
  EXPECT_NE(keys(1), keys(2));
}

TEST(CandidateTest, KeysOfThoseThatRetrieveAreOfPoolAndNumberNotOfRounding) {
  SearchData data = MoodData();
  auto pool = std::make_shared<ExamplePool>();
  pool->rows = {data.train[0].columns, data.train[1].columns};
  pool->embeddings = {{1, 0}, {0, 1}};
  const auto key = [&](int64_t retrieved, std::shared_ptr<const ExamplePool> of) {
    return KeyOf(*ToTextPrompt({"Do it.", data.formats[0], {}, "x", retrieved}, data.train, std::move(of)));
  };
  auto rounded = std::make_shared<ExamplePool>(*pool), other = std::make_shared<ExamplePool>(*pool);
  rounded->embeddings[0] = {0.999999f, 0.001f};
  other->rows.pop_back();
  EXPECT_EQ(key(2, pool), key(2, rounded));
  EXPECT_NE(key(2, pool), key(1, pool));
  EXPECT_NE(key(2, pool), key(2, other));
  EXPECT_EQ(key(0, pool), key(0, nullptr));
}

TEST(CandidatePoolTest, WithAPoolEveryThirdChoiceOfExamplesRetrieves) {
  SearchData data = MoodData();
  auto rows = std::make_shared<ExamplePool>();
  for (const Row& row : data.train) rows->rows.push_back(row.columns);
  data.pool = rows;
  SearchSettings settings;
  settings.candidates = 12;
  settings.max_examples = 4;
  const auto made = [&](TextPromptSpec::Selection selection) {
    settings.selection = selection;
    CandidatePool pool(&data, &settings);
    std::vector<Candidate> all = pool.First({"A proposed one."});
    for (int round = 0; round < 3; ++round) {
      for (Candidate& next : pool.Next({all.back(), all[all.size() / 2]}, {absl::StrCat("Round ", round)})) {
        all.push_back(std::move(next));
      }
    }
    int64_t fixed = 0, retrieving = 0;
    for (const Candidate& candidate : all) {
      EXPECT_TRUE(candidate.retrieved == 0 || candidate.examples.empty());
      EXPECT_LE(candidate.retrieved, 4);
      if (candidate.retrieved > 0) EXPECT_EQ(candidate.format, data.formats[0]);
      fixed += !candidate.examples.empty();
      retrieving += candidate.retrieved > 0;
    }
    return std::pair(fixed > 0, retrieving > 0);
  };
  EXPECT_EQ(made(TextPromptSpec::Selection::kUnspecified), std::pair(true, true));
  EXPECT_EQ(made(TextPromptSpec::Selection::kSimilar), std::pair(false, true));
  data.pool = nullptr;
  EXPECT_EQ(made(TextPromptSpec::Selection::kSimilar), std::pair(true, false));
}

TEST(SearchMemoTest, EveryAnswerSurvives) {
  SearchMemo memo;
  memo.embedded = {-4, 7};
  memo.scores["p"] = {{0, {1, 0}}, {-3, {0.25, 0.5}}};
  memo.content_free["p"] = {{1, {-1.5, -2.5}}};
  memo.written["q"] = {"one", "two \"quoted\"\n"};
  memo.calls = 7;
  memo.tokens = 8;
  memo.seconds = 0.5;
  auto back = SearchMemoFromJson(SearchMemoToJson(memo));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(SearchMemoToJson(*back), SearchMemoToJson(memo));
  ASSERT_NE(back->Find("p", -3), nullptr);
  EXPECT_EQ(back->Find("p", -3)->calibrated, 0.5);
  EXPECT_EQ(back->Find("p", 1), nullptr);
  EXPECT_EQ(back->Find("x", 0), nullptr);
  EXPECT_EQ(back->written, memo.written);
  for (const char* broken : {"", "[]", "{}", R"({"scores": 1})"}) {
    EXPECT_EQ(GetErrorDetails(SearchMemoFromJson(broken).status()).reason, "BAD_CHECKPOINT") << broken;
  }
}

}  // namespace
}  // namespace attune
