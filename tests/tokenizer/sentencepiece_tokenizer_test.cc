#include "server/tokenizer/sentencepiece_tokenizer.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kMark[] = "\xE2\x96\x81";

// <unk> <s> </s>, the bytes from 3 on, then the pieces from 259 on, better ones first.
std::vector<SentencePieceToken> Tokens(const std::vector<std::string>& pieces) {
  std::vector<SentencePieceToken> tokens = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back({absl::StrFormat("<0x%02X>", byte), 0, 6});
  for (const std::string& piece : pieces) tokens.push_back({piece, -static_cast<float>(tokens.size()), 1});
  return tokens;
}

std::string LoadError(const std::vector<SentencePieceToken>& tokens) {
  std::string error;
  EXPECT_EQ(SentencePieceBridge::FromTokens(tokens, true, false, &error), nullptr);
  return error;
}

std::unique_ptr<VocabularyTokenizer> Make(const std::vector<SentencePieceToken>& tokens, bool add_space_prefix = true,
                                          const std::vector<AddedToken>& added = {}) {
  std::string error;
  auto model = SentencePieceBridge::FromTokens(tokens, add_space_prefix, false, &error);
  EXPECT_NE(model, nullptr) << error;
  TokenizerSettings settings;
  auto tokenizer = MakeSentencePiece(std::move(model), added, &settings);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  (*tokenizer)->Configure(settings);
  return std::move(tokenizer).value();
}

// 259: _ab, 260: ab, 261: _, 262: a, 263: b
std::vector<SentencePieceToken> AbTokens() { return Tokens({std::string(kMark) + "ab", "ab", kMark, "a", "b"}); }

TEST(SentencePieceTokenizerTest, MergesByScoreAndMarksSpaces) {
  const auto tokenizer = Make(AbTokens());
  EXPECT_THAT(tokenizer->Encode("ab abb", false), ElementsAre(259, 259, 263));
  EXPECT_EQ(tokenizer->TokenBytes(259), " ab");
  EXPECT_EQ(tokenizer->Decode({259, 259, 263}, false), "ab abb");
}

TEST(SentencePieceTokenizerTest, NoSpaceIsAddedIfTheModelSaysSo) {
  const auto tokenizer = Make(AbTokens(), /*add_space_prefix=*/false);
  EXPECT_THAT(tokenizer->Encode("ab ab", false), ElementsAre(260, 259));
  EXPECT_EQ(tokenizer->Decode({259}, false), " ab");
}

TEST(SentencePieceTokenizerTest, UnknownCharactersBecomeBytes) {
  const auto tokenizer = Make(AbTokens());
  const std::string text = "a\xC3\xA9\n\xF0\x9F\x98\x80  b";
  const auto ids = tokenizer->Encode(text, false);
  EXPECT_THAT(std::vector<int32_t>(ids.begin(), ids.begin() + 4), ElementsAre(261, 262, 3 + 0xC3, 3 + 0xA9));
  EXPECT_EQ(tokenizer->Decode(ids, false), text);
  EXPECT_EQ(tokenizer->TokenBytes(3 + 0xC3), "\xC3");
  EXPECT_EQ(tokenizer->Decode({3 + 0xC3}, false), "\xEF\xBF\xBD");
}

TEST(SentencePieceTokenizerTest, WithoutByteTokensTheUnknownTokenStandsIn) {
  const std::vector<SentencePieceToken> tokens = {{"<unk>", 0, 2}, {"a", -1, 1}};
  const auto tokenizer = Make(tokens, false);
  EXPECT_THAT(tokenizer->Encode("azza", false), ElementsAre(1, 0, 1));
  EXPECT_EQ(tokenizer->unk_id(), 0);
}

TEST(SentencePieceTokenizerTest, ControlTokensOnlyIfParsed) {
  const auto tokenizer = Make(AbTokens());
  EXPECT_THAT(tokenizer->Encode("<s>ab</s>", true), ElementsAre(1, 259, 2));
  EXPECT_GT(tokenizer->Encode("<s>", false).size(), 1u);
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_FALSE(tokenizer->IsSpecial(3));
  EXPECT_EQ(tokenizer->Decode({1, 259, 2}, true), "ab");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
}

TEST(SentencePieceTokenizerTest, AddedTokensExtendTheVocabulary) {
  const auto tokenizer = Make(AbTokens(), true, {{266, "<pad>", true}, {264, "<user>", false}});
  EXPECT_EQ(tokenizer->vocab_size(), 267);
  EXPECT_THAT(tokenizer->Encode("<user>ab<pad>", true), ElementsAre(264, 259, 266));
  EXPECT_EQ(tokenizer->TokenBytes(265), "");
  EXPECT_EQ(tokenizer->TokenId("<pad>"), 266);
}

TEST(SentencePieceTokenizerTest, AnAddedTokenMayNotReplaceAnother) {
  std::string error;
  auto model = SentencePieceBridge::FromTokens(AbTokens(), true, false, &error);
  TokenizerSettings settings;
  EXPECT_FALSE(MakeSentencePiece(std::move(model), {{259, "<x>", true}}, &settings).ok());
}

TEST(SentencePieceTokenizerTest, AnyBytesAreEncoded) {
  const auto tokenizer = Make(AbTokens());
  std::string text;
  for (int i = 0; i < 512; ++i) text += static_cast<char>(i * 37 % 256);
  EXPECT_FALSE(tokenizer->Encode(text, true).empty());
  EXPECT_TRUE(tokenizer->Encode("", true).empty());
}

TEST(SentencePieceTokenizerTest, BrokenModelsAreNamed) {
  std::string error;
  EXPECT_EQ(SentencePieceBridge::FromModel("not a model", &error), nullptr);
  EXPECT_FALSE(error.empty());
  EXPECT_EQ(SentencePieceBridge::FromModel("", &error), nullptr);
  EXPECT_THAT(LoadError(Tokens({"a", "a"})), HasSubstr("twice"));
  EXPECT_THAT(LoadError(Tokens({""})), HasSubstr("empty"));
  EXPECT_THAT(LoadError({{"a", 0, 1}}), HasSubstr("unknown token"));
  EXPECT_THAT(LoadError({{"<unk>", 0, 2}, {"<0x00>", 0, 6}}), HasSubstr("byte tokens"));
  EXPECT_THAT(LoadError({{"<unk>", 0, 2}, {"a", std::nanf(""), 1}}), HasSubstr("score"));
  EXPECT_THAT(LoadError({{"<unk>", 0, 2}, {"a", 0, 77}}), HasSubstr("type"));
}

}  // namespace
}  // namespace attune
