// attune prompts against a fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/file.h"
#include "tests/testing/fake_services.h"
#include "tests/testing/run_cli.h"

namespace attune {
namespace {

using testing::CliResult;
using testing::FakeServer;
using testing::FakeState;
using testing::RunAttune;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class PromptsCliTest : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> args, const std::string& input = "") {
    args.insert(args.end(), {"--server", server_.target()});
    return RunAttune(std::move(args), input);
  }
  FakeState& state() { return server_.state(); }

  FakeServer server_;
};

v1::TextPrompt MoodPrompt() {
  v1::TextPrompt prompt;
  prompt.set_instruction("Glad or sad?");
  prompt.set_input_template("Text: {{text}}\nMood:");
  prompt.set_output_template(" {{label}}");
  auto& columns = *prompt.add_examples()->mutable_columns();
  columns["text"] = "sunny";
  columns["label"] = "glad";
  (*prompt.mutable_label_offsets())["glad"] = 0.5;
  auto* trial = prompt.add_trials();
  trial->set_instruction("Tried.");
  trial->set_score(0.75);
  trial->set_origin("proposed");
  return prompt;
}

TEST_F(PromptsCliTest, ShowWritesThePartsOrTheTemplate) {
  state().text_prompts["models/mood"] = MoodPrompt();
  state().models["models/mood"].set_prompt_template("Glad or sad?\n\nText: {{text}}\nMood:");
  CliResult r = Run({"prompts", "show", "mood"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("\"Glad or sad?\""));
  EXPECT_THAT(r.out, HasSubstr("example 1  label=glad, text=sunny"));
  EXPECT_THAT(r.out, HasSubstr("glad"));
  EXPECT_THAT(r.out, HasSubstr("Tried."));
  EXPECT_EQ(Run({"prompts", "show", "mood", "--template"}).out, "Glad or sad?\n\nText: {{text}}\nMood:\n");
  EXPECT_THAT(Run({"--json", "prompts", "show", "mood"}).out, HasSubstr("\"label_offsets\""));
  EXPECT_EQ(Run({"prompts", "show", "none"}).code, 3);
}

TEST_F(PromptsCliTest, EditMakesANewModel) {
  state().text_prompts["models/mood"] = MoodPrompt();
  v1::Model& model = state().models["models/mood"];
  model.set_name("models/mood");
  model.set_base_model("models/base");
  CliResult r = Run({"prompts", "edit", "mood", "--instruction", "Which mood?"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, HasSubstr("calibration"));
  const auto request = state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt");
  EXPECT_EQ(request.base_model(), "models/base");
  EXPECT_EQ(request.model_id(), "mood-v2");
  EXPECT_EQ(request.text_prompt().instruction(), "Which mood?");
  EXPECT_EQ(request.text_prompt().edited_from(), "models/mood");
  EXPECT_EQ(request.text_prompt().examples_size(), 1);
  EXPECT_TRUE(request.text_prompt().label_offsets().empty());
  EXPECT_FALSE(request.request_id().empty());

  state().text_prompts["models/mood-v2"] = MoodPrompt();
  state().models["models/mood-v2"].set_name("models/mood-v2");
  r = Run({"prompts", "edit", "mood-v2", "--no-examples", "--example", "{\"text\": \"a\", \"label\": \"b\"}"});
  EXPECT_EQ(r.code, 0) << r.err;
  const auto second = state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt", 1);
  EXPECT_EQ(second.model_id(), "mood-v3");
  EXPECT_EQ(second.text_prompt().instruction(), "Glad or sad?");
  ASSERT_EQ(second.text_prompt().examples_size(), 1);
  EXPECT_EQ(second.text_prompt().examples(0).columns().at("label"), "b");
  EXPECT_EQ(Run({"prompts", "edit", "mood", "--as", "mine", "--instruction", ""}).code, 0);
  EXPECT_EQ(state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt", 2).model_id(), "mine");
  EXPECT_EQ(Run({"prompts", "edit", "mood"}).code, 2);
  EXPECT_EQ(Run({"prompts", "edit", "mood", "--example", "text=a"}).code, 2);
}

v1::TextPrompt PoolPrompt() {
  v1::TextPrompt prompt = MoodPrompt();
  prompt.mutable_pool()->set_retrieved_examples(2);
  for (const char* text : {"rain", "snow", "hail"}) {
    auto* example = prompt.mutable_pool()->add_examples();
    (*example->mutable_columns())["text"] = text;
    example->add_embedding(1);
  }
  prompt.mutable_trials(0)->set_retrieved_examples(2);
  return prompt;
}

TEST_F(PromptsCliTest, WithAPoolAreShownEditedAndCompared) {
  v1::Model& model = state().models["models/near"];
  model.set_name("models/near");
  model.set_kind(v1::Model::TEXT_PROMPT);
  model.set_prompt_template("Text: {{text}}");
  state().text_prompts["models/near"] = PoolPrompt();
  CliResult r = Run({"prompts", "show", "near"});
  EXPECT_THAT(r.out, HasSubstr("the 2 of 3 examples that are most similar"));
  EXPECT_THAT(r.out, HasSubstr("2 similar"));
  EXPECT_THAT(Run({"--json", "prompts", "show", "near"}).out, HasSubstr("hail"));
  r = Run({"prompts", "show", "near", "--template"});
  EXPECT_EQ(r.out, "Text: {{text}}\n");
  EXPECT_THAT(r.err, HasSubstr("2 of 3"));
  // A pool stays as it is, embeddings too.
  EXPECT_EQ(Run({"prompts", "edit", "near", "--instruction", "x", "--no-examples"}).code, 0);
  const auto edited = state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt");
  EXPECT_EQ(edited.text_prompt().pool().DebugString(), PoolPrompt().pool().DebugString());
  EXPECT_EQ(Run({"prompts", "edit", "near", "--retrieve", "3"}).code, 0);
  EXPECT_EQ(
      state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt", 1).text_prompt().pool().retrieved_examples(),
      3);
  v1::Model& other = state().models["models/far"] = model;
  other.set_name("models/far");
  v1::TextPrompt& prompt = state().text_prompts["models/far"] = PoolPrompt();
  (*prompt.mutable_pool()->mutable_examples(1)->mutable_columns())["text"] = "wind";
  EXPECT_THAT(Run({"prompts", "diff", "near", "far"}).out, HasSubstr("-text=snow\n+text=wind\n"));
  EXPECT_EQ(Run({"prompts", "diff", "near", "near"}).out, "");
}

TEST_F(PromptsCliTest, CreateTakesAPool) {
  const std::string path = ::testing::TempDir() + "attune_cli_pool_test.jsonl";
  std::ofstream(path) << "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
  EXPECT_EQ(Run({"prompts", "create", "base", "--pool", path, "--retrieve", "2", "--as", "near"}).code, 0);
  const auto request = state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt");
  ASSERT_EQ(request.text_prompt().pool().examples_size(), 2);
  EXPECT_EQ(request.text_prompt().pool().examples(1).columns().at("text"), "b");
  EXPECT_EQ(request.text_prompt().pool().retrieved_examples(), 2);
  EXPECT_TRUE(request.text_prompt().examples().empty());
  EXPECT_NE(Run({"prompts", "create", "base", "--pool", path}).code, 0);
  EXPECT_NE(Run({"prompts", "create", "base", "--retrieve", "2"}).code, 0);
}

TEST_F(PromptsCliTest, CreateTakesTheTextFromAFileToo) {
  const std::string path = ::testing::TempDir() + "attune_cli_test.txt";
  std::ofstream(path) << "Read this.\n";
  CliResult r = Run({"prompts", "create", "base", "--file", path, "--template",
                     "Text: {{text}}\\nLabel:", "--completion-template", " {{label}}", "--example",
                     "{\"text\": \"a\", \"label\": \"b\"}", "--as", "hand"});
  EXPECT_EQ(r.code, 0) << r.err;
  const auto request = state().RequestOf<v1::CreateTextPromptRequest>("CreateTextPrompt");
  EXPECT_EQ(request.base_model(), "models/base");
  EXPECT_EQ(request.model_id(), "hand");
  EXPECT_EQ(request.text_prompt().instruction(), "Read this.");
  EXPECT_EQ(request.text_prompt().input_template(), "Text: {{text}}\nLabel:");
  EXPECT_EQ(request.text_prompt().examples(0).columns().at("text"), "a");
  EXPECT_EQ(Run({"prompts", "create", "base", "--file", path, "--instruction", "x"}).code, 2);
}

TEST_F(PromptsCliTest, DiffIsUnified) {
  v1::Model &a = state().models["models/a"], &b = state().models["models/b"];
  a.set_name("models/a");
  a.set_prompt_template("1\n2\n3");
  b.set_name("models/b");
  b.set_prompt_template("1\ntwo\n3");
  CliResult r = Run({"prompts", "diff", "a", "b"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "--- models/a\n+++ models/b\n@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n");
  EXPECT_EQ(Run({"prompts", "diff", "a", "a"}).out, "");
}

}  // namespace
}  // namespace attune
