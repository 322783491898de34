#include "server/grammar/grammar.h"

#include <random>
#include <string>
#include <thread>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "gtest/gtest.h"
#include "server/tokenizer/byte_alphabet.h"
#include "server/tokenizer/byte_bpe.h"
#include "server/tokenizer/pretokenizer.h"

namespace attune {
namespace {

using Kind = AnswerForm::Kind;

// Every byte, a few words, and an end token (the last).
class GrammarTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Vocabulary vocabulary;
    for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.push_back(ByteAlphabetChar(byte));
    for (const char* word : {"true", "false", "\"name\"", "yes", "no", "ye", "42", "{}"}) {
      vocabulary.tokens.emplace_back(word);
    }
    vocabulary.kinds.assign(vocabulary.tokens.size(), TokenKind::kNormal);
    end_ = static_cast<int32_t>(vocabulary.tokens.size());
    vocabulary.added.push_back({end_, "<end>", true});
    vocabulary.tokens.push_back("<end>");
    vocabulary.kinds.push_back(TokenKind::kControl);
    const PretokenizerRule* const rule = FindPretokenizerRule("gpt-2");
    auto tokenizer = MakeByteBpe(std::move(vocabulary), {}, {rule->patterns, rule->ignore_merges});
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    compiler_ = std::make_unique<GrammarCompiler>(*tokenizer_, int64_t{16} << 20);
  }

  std::unique_ptr<GrammarState> Start(const AnswerForm& form) {
    auto grammar = compiler_->Compile(form);
    EXPECT_TRUE(grammar.ok()) << grammar.status();
    return grammar.ok() ? (*grammar)->Start({end_}) : nullptr;
  }
  static bool IsAllowed(GrammarState* state, int32_t token) { return state->Allowed()[token / 32] >> (token % 32) & 1; }
  // Whether the form takes the text, byte by byte, and may end after it.
  bool Takes(const AnswerForm& form, const std::string& text) {
    auto state = Start(form);
    for (unsigned char byte : text) {
      const bool allowed = IsAllowed(state.get(), byte);
      EXPECT_EQ(state->Accept(byte), allowed) << "the mask says otherwise";
      if (!allowed) return false;
    }
    return IsAllowed(state.get(), end_);
  }
  // A text that the form allows, its tokens drawn at random.
  std::string Draw(const AnswerForm& form, uint32_t seed, int most) {
    std::mt19937 random(seed);
    auto state = Start(form);
    std::string text;
    for (int i = 0; i < most; ++i) {
      std::vector<int32_t> allowed;
      for (int32_t token = 0; token <= end_; ++token) {
        if (IsAllowed(state.get(), token)) allowed.push_back(token);
      }
      if (allowed.empty()) ADD_FAILURE() << "nothing may follow '" << text << "'";
      if (allowed.empty()) return text;
      // It ends as soon as it may, so that texts come to an end.
      const int32_t token = allowed.back() == end_ ? end_ : allowed[random() % allowed.size()];
      EXPECT_TRUE(state->Accept(token));
      if (token == end_) return text;
      text += tokenizer_->TokenBytes(token);
    }
    return "";
  }

  int32_t end_ = 0;
  std::unique_ptr<VocabularyTokenizer> tokenizer_;
  std::unique_ptr<GrammarCompiler> compiler_;
};

TEST_F(GrammarTest, ChoicesAreTakenWhole) {
  const AnswerForm form{Kind::kChoice, "", {"yes", "no", "a \"b\" \\ c\n", "größer"}};
  for (const std::string& choice : form.choices) EXPECT_TRUE(Takes(form, choice)) << choice;
  for (const char* wrong : {"", "y", "yesno", "Yes", "a "}) EXPECT_FALSE(Takes(form, wrong)) << wrong;
  auto state = Start(form);
  ASSERT_TRUE(state->Accept(256 + 5));  // "ye"
  EXPECT_FALSE(state->Accept(256 + 4));
  EXPECT_FALSE(state->IsOver());
  ASSERT_TRUE(state->Accept('s'));
  EXPECT_TRUE(state->IsOver());
}

TEST_F(GrammarTest, RegularExpressions) {
  const AnswerForm form{Kind::kRegex, "[0-9]{3}-(ab|cd)+", {}};
  for (const char* right : {"123-ab", "000-cdabcd"}) EXPECT_TRUE(Takes(form, right)) << right;
  for (const char* wrong : {"12-ab", "123-", "123-a", "1234-ab", "x"}) EXPECT_FALSE(Takes(form, wrong)) << wrong;
}

TEST_F(GrammarTest, ContextFreeGrammars) {
  const AnswerForm form{Kind::kGrammar, "root ::= \"(\" root \")\" | \"x\"", {}};
  for (const char* right : {"x", "(x)", "(((x)))"}) EXPECT_TRUE(Takes(form, right)) << right;
  for (const char* wrong : {"(x", "()", "x)", "(x))"}) EXPECT_FALSE(Takes(form, wrong)) << wrong;
}

TEST_F(GrammarTest, JsonSchemas) {
  const AnswerForm form{Kind::kJsonSchema, R"({
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
    "required": ["name", "age", "tags"], "additionalProperties": false})", {}};
  EXPECT_TRUE(Takes(form, R"({"name": "Ann", "age": 42, "tags": ["a"]})"));
  for (const char* wrong :
       {R"({"name": "Annabel", "age": 42, "tags": []})", R"({"name": "Ann", "age": 151, "tags": []})",
        R"({"name": "Ann", "age": 42, "tags": ["c"]})", R"({"age": 42, "tags": []})", R"({"name": "Ann"})", "[]"}) {
    EXPECT_FALSE(Takes(form, wrong)) << wrong;
  }
  int ended = 0;
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::string text = Draw(form, seed, 400);
    if (text.empty()) continue;
    ++ended;
    // A string may hold any bytes that are UTF-8.
    const auto json = nlohmann::json::parse(text, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << nlohmann::json(text).dump(-1, 32, true, nlohmann::json::error_handler_t::replace);
    EXPECT_TRUE(json["name"].is_string()) << text;
    EXPECT_LE(json["age"].get<int>(), 150) << text;
    EXPECT_LE(json["tags"].size(), 2u) << text;
  }
  EXPECT_GT(ended, 25);
}

TEST_F(GrammarTest, AnyJson) {
  const AnswerForm form{Kind::kJson, "", {}};
  for (const char* right : {R"({"a": [1, 2.5e3, null, true]})", "{}", R"({"b": {"c": "d\n"}})"}) EXPECT_TRUE(Takes(form, right)) << right;
  for (const char* wrong : {R"({"a": })", "[1]", "{a: 1}", "{\"a\": \"\t\"}"}) EXPECT_FALSE(Takes(form, wrong)) << wrong;
}

TEST_F(GrammarTest, ACopyGoesOnByItself) {
  auto state = Start({Kind::kChoice, "", {"yes", "no"}});
  GrammarState other(*state);
  ASSERT_TRUE(state->Accept('y'));
  EXPECT_TRUE(IsAllowed(&other, 'n'));
  ASSERT_TRUE(other.Accept('n'));
  EXPECT_TRUE(IsAllowed(state.get(), 'e'));
  EXPECT_FALSE(IsAllowed(state.get(), 'o'));
  EXPECT_TRUE(IsAllowed(&other, 'o'));
}

TEST_F(GrammarTest, WhatIsWrongIsAnErrorThatSaysWhy) {
  const std::vector<AnswerForm> wrong = {
      {Kind::kChoice, "", {}},
      {Kind::kChoice, "", {"a", ""}},
      {Kind::kRegex, "", {}},
      {Kind::kRegex, "[0-9", {}},
      {Kind::kRegex, "(a", {}},
      {Kind::kGrammar, "root ::= undefined", {}},
      {Kind::kGrammar, "start ::= \"a\"", {}},
      {Kind::kJsonSchema, "{", {}},
      {Kind::kJsonSchema, "{\"type\": \"nonsense\"}", {}},
      {Kind::kRegex, std::string(GrammarCompiler::kMostFormBytes + 1, 'a'), {}},
  };
  for (const AnswerForm& form : wrong) {
    const auto grammar = compiler_->Compile(form);
    ASSERT_FALSE(grammar.ok()) << form.text.substr(0, 40);
    EXPECT_EQ(grammar.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetErrorDetails(grammar.status()).reason, "BAD_ANSWER_FORM");
    EXPECT_FALSE(grammar.status().message().empty());
    EXPECT_NE(grammar.status().message()[0], '[') << grammar.status().message();
  }
}

TEST_F(GrammarTest, CompilersGoWithTheirTokenizers) {
  GrammarCompilers compilers(1 << 20);
  auto owner = std::make_shared<int>(1);
  const auto first = compilers.For(owner, *tokenizer_);
  EXPECT_EQ(compilers.For(owner, *tokenizer_), first);
  owner = std::make_shared<int>(2);
  EXPECT_NE(compilers.For(owner, *tokenizer_), first);
}

TEST_F(GrammarTest, ManyThreadsCompileAtOnce) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 5; ++j) {
        const std::string word = "w" + std::to_string((i + j) % 3);
        EXPECT_TRUE(Takes({Kind::kChoice, "", {word, "other"}}, word));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace attune
