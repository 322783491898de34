#include "server/data/preference.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "common/error.h"
#include "tests/testing/fake_tokenizer.h"

namespace attune {
namespace {

Row Preference(const std::string& prompt, const std::string& chosen, const std::string& rejected) {
  Row row;
  row.columns = {{"prompt", prompt}, {"chosen", chosen}, {"rejected", rejected}};
  return row;
}

RenderOptions Options(int64_t max_tokens = 100) {
  RenderOptions options;
  options.kind = DatasetKind::kPreference;
  options.max_tokens = max_tokens;
  return options;
}

std::vector<int32_t> Prompt(const Example& example) {
  return {example.tokens.begin(), example.tokens.begin() + example.prompt_tokens};
}

TEST(PreferenceTest, BothAnswersStandBehindOnePrompt) {
  FakeTokenizer tokenizer;
  RenderOptions options = Options();
  options.completion_template = "-{{completion}}";
  options.train_on_prompt = true;  // loss is on answers all the same
  const auto renderer = PreferenceRenderer::Create(&tokenizer, nullptr, options);
  ASSERT_TRUE(renderer.ok()) << renderer.status();
  EXPECT_EQ(renderer->options().kind, DatasetKind::kPromptCompletion);
  const PreferenceExamples pair = renderer->Render(Preference("pq", "x", "yz"), 4).value();
  EXPECT_EQ(pair.chosen.tokens, (std::vector<int32_t>{FakeTokenizer::kBos, 'p', 'q', '-', 'x', FakeTokenizer::kEos}));
  EXPECT_EQ(pair.rejected.tokens,
            (std::vector<int32_t>{FakeTokenizer::kBos, 'p', 'q', '-', 'y', 'z', FakeTokenizer::kEos}));
  EXPECT_EQ(pair.chosen.has_loss, (std::vector<uint8_t>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(pair.rejected.has_loss, (std::vector<uint8_t>{0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(pair.chosen.row, 4);
}

// Else the answers would not be to the same question.
TEST(PreferenceTest, BothPromptsAreCutAlike) {
  FakeTokenizer tokenizer;
  const auto renderer = PreferenceRenderer::Create(&tokenizer, nullptr, Options(10));
  ASSERT_TRUE(renderer.ok());
  for (const auto& [chosen, rejected] : {std::pair("a", "bcdefg"), std::pair("bcdefg", "a")}) {
    const PreferenceExamples pair = renderer->Render(Preference("0123456789", chosen, rejected), 0).value();
    EXPECT_EQ(Prompt(pair.chosen), Prompt(pair.rejected));
    EXPECT_EQ(pair.chosen.prompt_tokens, 3);
    EXPECT_TRUE(pair.chosen.truncated && pair.rejected.truncated);
  }
}

TEST(PreferenceTest, RefusesWhatItCannotRender) {
  FakeTokenizer tokenizer;
  const auto renderer = PreferenceRenderer::Create(&tokenizer, nullptr, Options(10));
  EXPECT_EQ(GetErrorDetails(renderer->Render(Preference("p", "a", std::string(20, 'b')), 0).status()).reason,
            "ANSWER_TOO_LONG");
  Row row;
  row.columns = {{"prompt", "p"}, {"chosen", "a"}};
  EXPECT_EQ(GetErrorDetails(renderer->Render(row, 0).status()).reason, "NO_PREFERENCES");
  RenderOptions chats = Options();
  chats.kind = DatasetKind::kChatPreference;
  EXPECT_EQ(GetErrorDetails(PreferenceRenderer::Create(&tokenizer, nullptr, chats).status()).reason,
            "NO_CHAT_TEMPLATE");
  EXPECT_EQ(GetErrorDetails(ExampleRenderer::Create(&tokenizer, nullptr, Options()).status()).reason,
            "PREFERENCE_DATA");
}

TEST(PreferenceTest, ChatsCarryLossOnTheirLastAnswerAlone) {
  FakeTokenizer tokenizer;
  const auto chat = ChatTemplate::Parse(
                        "{% for message in messages %}[{{ message['role'] }}:{{ message['content'] }}]{% endfor %}"
                        "{% if add_generation_prompt %}[assistant:{% endif %}",
                        "", "")
                        .value();
  RenderOptions options = Options();
  options.kind = DatasetKind::kChatPreference;
  const auto renderer = PreferenceRenderer::Create(&tokenizer, chat.get(), options);
  ASSERT_TRUE(renderer.ok()) << renderer.status();
  Row row;
  row.chosen = {{"user", "u"}, {"assistant", "a"}, {"user", "v"}, {"assistant", "good"}};
  row.rejected = row.chosen;
  row.rejected.back().content = "bad";
  const PreferenceExamples pair = renderer->Render(row, 0).value();
  EXPECT_EQ(Prompt(pair.chosen), Prompt(pair.rejected));
  for (const auto& [example, answer] : {std::pair(&pair.chosen, "good"), std::pair(&pair.rejected, "bad")}) {
    std::string loss;
    for (size_t t = 0; t < example->tokens.size(); ++t) {
      if (example->has_loss[t]) loss += tokenizer.TokenBytes(example->tokens[t]);
    }
    EXPECT_EQ(loss.substr(0, std::string(answer).size()), answer);
  }
}

}  // namespace
}  // namespace attune
