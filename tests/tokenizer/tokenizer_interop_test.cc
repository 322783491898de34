// Compares with references that tests/interop/tokenizer_reference.py makes:
// ATTUNE_TEST_REFERENCES is its output folder, ATTUNE_TEST_MODEL its GGUF file.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/error.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/tokenizer/byte_alphabet.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/load.h"
#include "server/tokenizer/stream_decoder.h"

namespace attune {
namespace {

using nlohmann::json;

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<json> ReadLines(const std::string& path) {
  std::ifstream in(path);
  std::vector<json> rows;
  for (std::string line; std::getline(in, line);) rows.push_back(json::parse(line));
  return rows;
}

std::string StreamAll(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(&tokenizer, {});
  std::string text;
  for (const int32_t id : ids) text += decoder.Add(id);
  return text + decoder.Finish();
}

bool HasByteWithoutToken(const Tokenizer& tokenizer, const std::string& text) {
  return std::any_of(text.begin(), text.end(), [&](char c) { return tokenizer.TokenId(ByteAlphabetChar(c)) < 0; });
}

class TokenizerInteropTest : public ::testing::Test {
 protected:
  void SetUp() override {
    references_ = Environment("ATTUNE_TEST_REFERENCES");
    model_ = Environment("ATTUNE_TEST_MODEL");
    if (references_.empty() || model_.empty()) GTEST_SKIP() << "ATTUNE_TEST_REFERENCES or ATTUNE_TEST_MODEL is not set";
  }

  std::string references_, model_;
};

class OtherModelTest : public TokenizerInteropTest, public ::testing::WithParamInterface<const char*> {};

TEST_F(TokenizerInteropTest, IdsOfTheModelAreIdenticalAndDecodeBack) {
  const auto file = GgufFile::Open(model_);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = LoadTokenizer(**file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<json> rows = ReadLines(references_ + "/tokenizer.jsonl");
  ASSERT_GE(rows.size(), 500u);
  int without_token = 0;
  for (const json& row : rows) {
    const std::string text = row["text"];
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, /*parse_special=*/true);
    EXPECT_EQ(ids, row["ids"].get<std::vector<int32_t>>()) << row["text"];
    // SmolLM2's vocabulary lacks a few control bytes: they become its unknown token.
    if (HasByteWithoutToken(**tokenizer, text)) {
      ++without_token;
      continue;
    }
    EXPECT_EQ((*tokenizer)->Decode(ids, /*skip_special=*/false), text);
    const std::vector<int32_t> plain = (*tokenizer)->Encode(text, /*parse_special=*/false);
    EXPECT_EQ(StreamAll(**tokenizer, plain), text);
  }
  EXPECT_LT(without_token, 50);
}

TEST_F(TokenizerInteropTest, ChatTemplatesRenderIdentically) {
  const std::vector<json> rows = ReadLines(references_ + "/chat_template.jsonl");
  ASSERT_GE(rows.size(), 100u);
  for (const json& row : rows) {
    const auto chat = ChatTemplate::Parse(row["template"], "<s>", "</s>");
    ASSERT_TRUE(chat.ok()) << chat.status();
    std::vector<ChatTurn> turns;
    for (const json& message : row["messages"]) turns.push_back({message["role"], message["content"]});
    const auto text = (*chat)->Render(turns, row["add_generation_prompt"]);
    if (row.contains("error")) {
      EXPECT_EQ(GetErrorDetails(text.status()).reason, "CHAT_TEMPLATE_ERROR") << row;
    } else {
      ASSERT_TRUE(text.ok()) << text.status() << row;
      EXPECT_EQ(*text, row["text"].get<std::string>()) << row;
    }
  }
}

// What the templates of a hundred models make of turns, tools, and calls of them.
TEST_F(TokenizerInteropTest, TemplatesOfModelsRenderIdentically) {
  using OrderedJson = nlohmann::ordered_json;
  std::ifstream in(references_ + "/chat_templates.jsonl");
  int templates = 0, rendered = 0;
  for (std::string line; std::getline(in, line); ++templates) {
    const OrderedJson all = OrderedJson::parse(line);
    const std::string name = all["name"];
    const auto chat = ChatTemplate::Parse(all["template"], "<s>", "</s>");
    if (!chat.ok()) {
      ADD_FAILURE() << name << ": " << chat.status();
      continue;
    }
    for (const OrderedJson& row : all["rows"]) {
      std::vector<ChatTurn> turns;
      for (OrderedJson message : row["messages"]) {
        ChatTurn turn{message["role"], message["content"]};
        message.erase("role");
        message.erase("content");
        if (!message.empty()) turn.more = message.dump();
        turns.push_back(turn);
      }
      const std::string tools = row["tools"].is_null() ? "" : row["tools"].dump();
      const auto text = (*chat)->Render(turns, row["add_generation_prompt"], tools);
      if (row.contains("error")) {
        EXPECT_EQ(GetErrorDetails(text.status()).reason, "CHAT_TEMPLATE_ERROR") << name << " " << row;
        continue;
      }
      if (!text.ok()) {
        ADD_FAILURE() << name << ": " << text.status() << " " << row["messages"] << tools;
        continue;
      }
      EXPECT_EQ(*text, row["text"].get<std::string>()) << name << " " << row["messages"] << tools;
      ++rendered;
    }
  }
  EXPECT_GE(templates, 90);
  EXPECT_GE(rendered, 2500);
}

TEST_P(OtherModelTest, IdsAndTextAreIdentical) {
  const std::string directory = references_ + "/models/" + GetParam();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer;
  if (std::string(GetParam()) == "gguf_llama") {
    const auto file = GgufFile::Open(directory + "/tokenizer.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    tokenizer = LoadTokenizer(**file);
  } else {
    tokenizer = LoadTokenizer(directory);
  }
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<json> rows = ReadLines(directory + "/tokenizer.jsonl");
  ASSERT_GE(rows.size(), 500u);
  for (const json& row : rows) {
    std::vector<int32_t> ids = (*tokenizer)->Encode(row["text"].get<std::string>(), /*parse_special=*/true);
    std::vector<int32_t> expected = row["ids"];
    EXPECT_EQ((*tokenizer)->Decode(ids, /*skip_special=*/false), row["decoded"].get<std::string>()) << row["text"];
    if (std::string(GetParam()) == "sentencepiece_unigram") {
      // Where several orders of the same tokens are equally likely, the library's versions choose differently.
      std::sort(ids.begin(), ids.end());
      std::sort(expected.begin(), expected.end());
    }
    EXPECT_EQ(ids, expected) << row["text"];
  }
}

class ManyTextsTest : public TokenizerInteropTest, public ::testing::WithParamInterface<const char*> {};

// 20,000 texts, generated and real.
TEST_P(ManyTextsTest, IdsAndRoundTripsAreIdentical) {
  const std::string directory = references_ + "/models/" + GetParam();
  const auto tokenizer = LoadTokenizer(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<json> texts = ReadLines(references_ + "/texts.jsonl");
  ASSERT_GE(texts.size(), 20000u);
  std::ifstream in(directory + "/ids.bin", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::vector<int32_t> numbers(bytes.size() / sizeof(int32_t));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(int32_t));
  std::map<size_t, std::string> decoded;
  for (const json& row : ReadLines(directory + "/decoded.jsonl")) decoded[row["index"]] = row["decoded"];
  size_t at = 0;
  int compared = 0, failures = 0;
  for (size_t i = 0; i < texts.size() && failures < 10; ++i) {
    ASSERT_LT(at, numbers.size());
    const size_t count = numbers[at++];
    ASSERT_LE(at + count, numbers.size());
    std::vector<int32_t> expected(numbers.begin() + at, numbers.begin() + at + count);
    at += count;
    if (count == 0) continue;
    const std::string text = texts[i];
    std::vector<int32_t> ids = (*tokenizer)->Encode(text, /*parse_special=*/true);
    const std::string back = (*tokenizer)->Decode(ids, /*skip_special=*/false);
    const auto other = decoded.find(i);
    if (std::string(GetParam()) == "sentencepiece_unigram") {
      std::sort(ids.begin(), ids.end());  // see above
      std::sort(expected.begin(), expected.end());
    }
    EXPECT_EQ(ids, expected) << texts[i];
    EXPECT_EQ(back, other == decoded.end() ? text : other->second) << texts[i];
    failures += ids != expected;
    ++compared;
  }
  EXPECT_GE(compared, failures == 0 ? 19000 : 0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, ManyTextsTest,
                         ::testing::Values("smollm", "gpt2", "gpt2_prefix", "digits", "llama3", "qwen2", "prepend",
                                           "metaspace_first", "metaspace_always", "metaspace_never",
                                           "sentencepiece_bpe", "sentencepiece_unigram", "mistral_tokenizer_model_v1",
                                           "mistral_mistral_instruct_tokenizer_240216_model_v2",
                                           "mistral_mistral_instruct_tokenizer_240323_model_v3",
                                           "mistral_mistral_instruct_tokenizer_241114_model_v7",
                                           "mistral_tekken_240718", "mistral_tekken_240911"),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(Layouts, OtherModelTest,
                         ::testing::Values("smollm", "gpt2", "gpt2_prefix", "digits", "llama3", "qwen2", "prepend",
                                           "metaspace_first", "metaspace_always", "metaspace_never",
                                           "sentencepiece_bpe", "sentencepiece_unigram", "gguf_llama"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace attune
