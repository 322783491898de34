#include "server/data/text_prompt.h"

#include <fstream>
#include <functional>

#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

TextPrompt Mood() {
  TextPrompt prompt;
  prompt.instruction = "Is it glad or sad?";
  prompt.input_template = "Text: {{text}}\nMood:";
  prompt.output_template = " {{label}}";
  prompt.examples = {{{"text", "a sunny day"}, {"label", "glad"}}, {{"text", "a dark day"}, {"label", "sad"}}};
  return prompt;
}

std::string RenderWith(const TextPrompt& prompt, const Columns& columns) {
  absl::StatusOr<std::string> source = MakePromptTemplate(prompt);
  EXPECT_TRUE(source.ok()) << source.status();
  absl::StatusOr<PromptTemplate> parsed = PromptTemplate::Parse(*source);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  absl::StatusOr<std::string> text = parsed->Render(columns);
  EXPECT_TRUE(text.ok()) << text.status();
  return *text;
}

TEST(TextPromptTest, InstructionExamplesAndInputInThisOrder) {
  EXPECT_EQ(
      RenderWith(Mood(), {{"text", "a meal"}}),
      "Is it glad or sad?\n\nText: a sunny day\nMood: glad\n\nText: a dark day\nMood: sad\n\nText: a meal\nMood:");
  TextPrompt bare = Mood();
  bare.instruction.clear();
  bare.examples.clear();
  EXPECT_EQ(*MakePromptTemplate(bare), bare.input_template);
}

TEST(TextPromptTest, BracesInTheTextStayText) {
  for (const char* text :
       {"{{x}}", "{{", "}}", "{{{", "\\{{x}}", "\\\\{{", "a { b {{text}} c", "{", "ends with {{{{"}) {
    TextPrompt prompt = Mood();
    prompt.instruction = text;
    prompt.examples[0]["text"] = text;
    EXPECT_EQ(
        RenderWith(prompt, {{"text", "{{y}}"}}),
        std::string(text) + "\n\nText: " + text + "\nMood: glad\n\nText: a dark day\nMood: sad\n\nText: {{y}}\nMood:")
        << text;
    EXPECT_EQ(PromptTemplate::Parse(*MakePromptTemplate(prompt))->variables(), std::vector<std::string>{"text"});
  }
}

TEST(TextPromptTest, ExamplesNeedTheColumnsOfBothTemplates) {
  TextPrompt prompt = Mood();
  prompt.examples[1].erase("label");
  EXPECT_EQ(GetErrorDetails(MakePromptTemplate(prompt).status()).reason, "MISSING_COLUMN");
  prompt = Mood();
  prompt.output_template = "{{";
  EXPECT_EQ(GetErrorDetails(MakePromptTemplate(prompt).status()).reason, "BAD_TEMPLATE");
}

TEST(TextPromptTest, EveryPartSurvivesTheFile) {
  TextPrompt prompt = Mood();
  prompt.label_offsets = {{"glad", 0.5}, {"sad", -0.25}};
  prompt.edited_from = "mood";
  prompt.trials = {{"Say it.", 2, "Q: {{text}}\nA:", 0.75, 0.5, 0.9, 16, "proposed"}};
  TempFolder folder;
  ASSERT_TRUE(WriteTextPrompt(folder.path(), prompt).ok());
  absl::StatusOr<TextPrompt> back = ReadTextPrompt(folder.path());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, prompt);
}

TextPrompt Retrieving() {
  TextPrompt prompt = Mood();
  auto pool = std::make_shared<ExamplePool>();
  pool->rows = {{{"text", "rain"}, {"label", "sad"}}, {{"text", "snow {{x}}"}, {"label", "glad"}}};
  pool->embeddings = {{0.6f, 0.8f}, {-1, 0}};
  prompt.pool = pool;
  prompt.retrieved = 1;
  return prompt;
}

TEST(TextPromptTest, RetrievedExamplesComeLast) {
  const TextPrompt prompt = Retrieving();
  EXPECT_EQ(*MakePromptTemplate(prompt), *MakePromptTemplate(Mood()));
  EXPECT_EQ(PromptTemplate::Parse(*MakePromptTemplate(prompt, {1, 0}))->Render({{"text", "a meal"}}).value(),
            "Is it glad or sad?\n\nText: a sunny day\nMood: glad\n\nText: a dark day\nMood: sad\n\n"
            "Text: snow {{x}}\nMood: glad\n\nText: rain\nMood: sad\n\nText: a meal\nMood:");
}

TEST(TextPromptTest, APoolSurvivesTheFileBitByBit) {
  TempFolder folder;
  const TextPrompt prompt = Retrieving();
  ASSERT_TRUE(WriteTextPrompt(folder.path(), prompt).ok());
  absl::StatusOr<TextPrompt> back = ReadTextPrompt(folder.path());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, prompt);
  ASSERT_NE(back->pool, nullptr);
  EXPECT_EQ(*back->pool, *prompt.pool);
  EXPECT_EQ(back->retrieved, 1);
  EXPECT_FALSE(*back == Mood());
  // Those of before there were pools are read, and what has none is written as they are.
  EXPECT_EQ(TextPromptToJson(Mood()).find("pool"), std::string::npos);
}

TEST(TextPromptTest, HostilePoolsAreRefused) {
  using Json = nlohmann::ordered_json;
  const Json good = Json::parse(TextPromptToJson(Retrieving()));
  ASSERT_TRUE(TextPromptFromJson(good.dump()).ok());
  const auto reason = [&](const std::function<void(Json&)>& change) {
    Json json = good;
    change(json["pool"]);
    return GetErrorDetails(TextPromptFromJson(json.dump()).status()).reason;
  };
  EXPECT_EQ(reason([](Json& pool) { pool = 3; }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["retrieved"] = 0; }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["retrieved"] = 65; }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["rows"] = Json::array(); }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["rows"].erase(1); }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["rows"][1].erase("label"); }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["embeddings"][1] = 3; }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["embeddings"][1] = "?"; }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["embeddings"][1] = EncodeEmbedding({1}); }), "MODEL_DAMAGED");
  EXPECT_EQ(reason([](Json& pool) { pool["embeddings"][1] = EncodeEmbedding({2, 0}); }), "MODEL_DAMAGED");
  const auto many = [](Json& pool) {
    while (pool["rows"].size() <= kMostPoolRows) {
      pool["rows"].push_back(pool["rows"][0]);
      pool["embeddings"].push_back(pool["embeddings"][0]);
    }
  };
  EXPECT_EQ(reason(many), "MODEL_DAMAGED");
  TempFolder folder;
  std::ofstream(folder.File("text_prompt.json")) << "{";
  EXPECT_THAT(std::string(ReadTextPrompt(folder.path()).status().message()),
              ::testing::HasSubstr(folder.File("text_prompt.json")));
}

TEST(TextPromptTest, DamagedFilesAreDataLoss) {
  for (const char* text : {"", "{", "[]", "{}", R"({"instruction": 3})"}) {
    EXPECT_EQ(GetErrorDetails(TextPromptFromJson(text).status()).reason, "MODEL_DAMAGED") << text;
  }
}

}  // namespace
}  // namespace attune
