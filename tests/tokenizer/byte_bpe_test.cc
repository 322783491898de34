#include "server/tokenizer/byte_bpe.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/tokenizer/bpe_merger.h"
#include "server/tokenizer/byte_alphabet.h"
#include "server/tokenizer/pretokenizer.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

// All bytes in order, then `merged` words (left right) and control tokens.
Vocabulary ByteVocabulary(const BpeMerges& merges, const std::vector<std::string>& controls) {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.push_back(ByteAlphabetChar(byte));
  for (const auto& [left, right] : merges) vocabulary.tokens.push_back(left + right);
  vocabulary.kinds.assign(vocabulary.tokens.size(), TokenKind::kNormal);
  for (const std::string& control : controls) {
    vocabulary.added.push_back({static_cast<int32_t>(vocabulary.tokens.size()), control, true});
    vocabulary.tokens.push_back(control);
    vocabulary.kinds.push_back(TokenKind::kControl);
  }
  return vocabulary;
}

std::unique_ptr<VocabularyTokenizer> Make(const BpeMerges& merges, const std::vector<std::string>& controls = {},
                                          const std::string& pre = "gpt-2") {
  const PretokenizerRule* const rule = FindPretokenizerRule(pre);
  auto tokenizer = MakeByteBpe(ByteVocabulary(merges, controls), merges, {rule->patterns, rule->ignore_merges});
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return std::move(tokenizer).value();
}

std::vector<std::string> Pieces(const std::string& rule, const std::string& text) {
  auto pretokenizer = Pretokenizer::Create(FindPretokenizerRule(rule)->patterns);
  EXPECT_TRUE(pretokenizer.ok());
  std::vector<std::string> pieces;
  for (const absl::string_view piece : pretokenizer->Split(text)) pieces.emplace_back(piece);
  return pieces;
}

TEST(ByteAlphabetTest, EveryByteHasItsOwnCharacterAndComesBack) {
  std::string all, bytes;
  for (int byte = 0; byte < 256; ++byte) all += ByteAlphabetChar(byte);
  ASSERT_TRUE(BytesOfByteAlphabet(all, &bytes));
  ASSERT_EQ(bytes.size(), 256u);
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(static_cast<uint8_t>(bytes[byte]), byte);
  EXPECT_EQ(ByteAlphabetChar(' '), "\xC4\xA0");   // U+0120
  EXPECT_EQ(ByteAlphabetChar('\n'), "\xC4\x8A");  // U+010A
  EXPECT_FALSE(BytesOfByteAlphabet("a b", &bytes));
  EXPECT_FALSE(BytesOfByteAlphabet("\xE4\xB8\xAD", &bytes));
}

TEST(PretokenizerTest, Gpt2KeepsTheLastSpaceForTheWord) {
  EXPECT_THAT(Pieces("gpt-2", "it's  a\n\n b12"), ElementsAre("it", "'s", " ", " a", "\n\n", " b", "12"));
}

TEST(PretokenizerTest, SmollmSplitsDigitsFirst) {
  EXPECT_THAT(Pieces("smollm", "a  123"), ElementsAre("a", "  ", "1", "2", "3"));
}

TEST(PretokenizerTest, Llama3TakesThreeDigitsAndLineBreaksWithPunctuation) {
  EXPECT_THAT(Pieces("llama-bpe", "x 12345!\n\nIT'S"), ElementsAre("x", " ", "123", "45", "!\n\n", "IT", "'S"));
  EXPECT_THAT(Pieces("qwen2", "12a"), ElementsAre("1", "2", "a"));
}

TEST(PretokenizerTest, MongolianVowelSeparatorIsNoSpace) {
  EXPECT_THAT(Pieces("gpt-2", "a\xE1\xA0\x8E"), ElementsAre("a", "\xE1\xA0\x8E"));
  EXPECT_THAT(Pieces("gpt-2", "!\xE1\xA0\x8E!"), ElementsAre("!\xE1\xA0\x8E!"));
}

TEST(PretokenizerTest, BrokenUtf8IsAPieceOfItsOwn) {
  EXPECT_THAT(Pieces("gpt-2", "ab\xFF\xC3 cd"), ElementsAre("ab", "\xFF\xC3", " cd"));
}

TEST(PretokenizerTest, NamesAWrongPattern) {
  const auto status = Pretokenizer::Create({"("}).status();
  EXPECT_EQ(GetErrorDetails(status).reason, "UNSUPPORTED_TOKENIZER");
  EXPECT_EQ(FindPretokenizerRule("no-such"), nullptr);
}

TEST(BpeMergerTest, LowestRankFirstThenLeftmost) {
  const std::vector<std::string> tokens = {"a", "b", "c", "bc", "ab", "aa"};
  auto merger = BpeMerger::Create(tokens, {{"b", "c"}, {"a", "b"}, {"a", "a"}});
  ASSERT_TRUE(merger.ok());
  std::vector<int32_t> abc = {0, 1, 2}, aaa = {0, 0, 0};
  merger->Apply(&abc);
  merger->Apply(&aaa);
  EXPECT_THAT(abc, ElementsAre(0, 3));
  EXPECT_THAT(aaa, ElementsAre(5, 0));
}

TEST(BpeMergerTest, LongAndShortWordsMergeAlike) {
  const std::vector<std::string> tokens = {"a", "b", "ab", "ba", "abab", "bab", "aab"};
  auto merger = BpeMerger::Create(tokens, {{"a", "b"}, {"b", "a"}, {"ab", "ab"}, {"b", "ab"}, {"a", "ab"}});
  ASSERT_TRUE(merger.ok());
  // A word of 30 symbols, and the same 40 times over, apart by a symbol that merges with nothing.
  uint32_t random = 1;
  std::vector<int32_t> all, expected;
  for (int word = 0; word < 40; ++word) {
    std::vector<int32_t> symbols;
    for (int i = 0; i < 30; ++i) symbols.push_back((random = random * 1664525 + 1013904223) >> 31);
    all.insert(all.end(), symbols.begin(), symbols.end());
    all.push_back(99);
    merger->Apply(&symbols);
    expected.insert(expected.end(), symbols.begin(), symbols.end());
    expected.push_back(99);
  }
  merger->Apply(&all);
  EXPECT_EQ(all, expected);
}

TEST(BpeMergerTest, RefusesMergesOutsideTheVocabulary) {
  const auto status = BpeMerger::Create({"a", "b"}, {{"a", "b"}}).status();
  EXPECT_EQ(GetErrorDetails(status).reason, "UNSUPPORTED_TOKENIZER");
}

TEST(ByteBpeTest, MergesInsideWordsOnly) {
  const auto tokenizer = Make({{"a", "b"}, {ByteAlphabetChar(' '), "ab"}});
  EXPECT_THAT(tokenizer->Encode("ab ab", false), ElementsAre(256, 257));
  EXPECT_EQ(tokenizer->Decode({256, 257}, false), "ab ab");
  EXPECT_EQ(tokenizer->TokenBytes(257), " ab");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(100000), "");
}

TEST(ByteBpeTest, AnyBytesComeBack) {
  const auto tokenizer = Make({{"a", "b"}}, {"<s>"});
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(i * 7 % 256);
  std::string back;
  for (const int32_t id : tokenizer->Encode(text, true)) back += tokenizer->TokenBytes(id);
  EXPECT_EQ(back, text);
  EXPECT_TRUE(tokenizer->Encode("", true).empty());
}

TEST(ByteBpeTest, SpecialTokensLongestFirstAndOnlyIfParsed) {
  const auto tokenizer = Make({}, {"<e>", "<e>x", "<"});
  EXPECT_THAT(tokenizer->Encode("a<e>x<e><", true), ElementsAre('a', 257, 256, 258));
  EXPECT_EQ(tokenizer->Encode("<e>x", false).size(), 4u);
  EXPECT_TRUE(tokenizer->IsSpecial(256));
  EXPECT_FALSE(tokenizer->IsSpecial('a'));
  EXPECT_EQ(tokenizer->TokenId("<e>x"), 257);
  EXPECT_EQ(tokenizer->TokenId("nothing"), -1);
  EXPECT_EQ(tokenizer->Decode({'a', 256, 'b'}, true), "ab");
  EXPECT_EQ(tokenizer->Decode({'a', 256, 'b'}, false), "a<e>b");
}

TEST(ByteBpeTest, StrippingAddedTokensTakeSpacesAlong) {
  Vocabulary vocabulary = ByteVocabulary({}, {"<m>"});
  vocabulary.added[0].strip_left = vocabulary.added[0].strip_right = true;
  const auto tokenizer = MakeByteBpe(std::move(vocabulary), {}, {});
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT((*tokenizer)->Encode("a \xC2\xA0<m>\n b", true), ElementsAre('a', 256, 'b'));
}

TEST(ByteBpeTest, BrokenUtf8DecodesToReplacementCharacters) {
  const auto tokenizer = Make({});
  EXPECT_EQ(tokenizer->Decode({0xE4, 0xB8, 'a', 0xFF}, false), "\xEF\xBF\xBD" "a\xEF\xBF\xBD");
}

TEST(ByteBpeTest, IgnoreMergesTakesWholeWords) {
  Vocabulary vocabulary = ByteVocabulary({}, {});
  vocabulary.tokens.push_back("xyz");
  vocabulary.kinds.push_back(TokenKind::kNormal);
  const auto tokenizer = MakeByteBpe(std::move(vocabulary), {}, {{Gpt2Pattern()}, /*ignore_merges=*/true});
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT((*tokenizer)->Encode("xyz", false), ElementsAre(256));
}

TEST(ByteBpeTest, TextIsNormalizedFirstWhereTheRuleSaysSo) {
  EXPECT_TRUE(FindPretokenizerRule("qwen2")->normalizes);
  Vocabulary vocabulary = ByteVocabulary({}, {});
  const auto plain = MakeByteBpe(vocabulary, {}, {{Gpt2Pattern()}});
  const auto tokenizer = MakeByteBpe(vocabulary, {}, {{Gpt2Pattern()}, /*ignore_merges=*/false, /*normalizes=*/true});
  ASSERT_TRUE(plain.ok() && tokenizer.ok());
  EXPECT_EQ((*tokenizer)->Encode("e\xCC\x81", true), (*plain)->Encode("\xC3\xA9", true));
  EXPECT_NE((*plain)->Encode("e\xCC\x81", true), (*plain)->Encode("\xC3\xA9", true));
}

TEST(ByteBpeTest, ALongWordIsNotQuadratic) {
  const auto tokenizer = Make({{"a", "a"}, {"aa", "aa"}, {"a", "b"}, {"b", "a"}});
  std::string text;
  for (int i = 0; i < 1 << 20; ++i) text += i % 5 ? 'a' : 'b';
  // A quadratic merge of a mebibyte would run into the test's time limit.
  const auto ids = tokenizer->Encode(text, false);
  EXPECT_EQ(tokenizer->Decode(ids, false), text);
}

TEST(ByteBpeTest, ManyThreadsGetTheSameIds) {
  const auto tokenizer = Make({{"a", "b"}, {"ab", "ab"}}, {"<s>"});
  const auto expected = tokenizer->Encode("abab<s> ab", true);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 500; ++k) wrong += tokenizer->Encode("abab<s> ab", true) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace attune
