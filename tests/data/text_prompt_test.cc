#include "server/data/text_prompt.h"

#include "common/error.h"
#include "gtest/gtest.h"
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

TEST(TextPromptTest, DamagedFilesAreDataLoss) {
  for (const char* text : {"", "{", "[]", "{}", R"({"instruction": 3})"}) {
    EXPECT_EQ(GetErrorDetails(TextPromptFromJson(text).status()).reason, "MODEL_DAMAGED") << text;
  }
}

}  // namespace
}  // namespace attune
