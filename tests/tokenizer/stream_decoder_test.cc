#include "common/utf8.h"
#include "server/tokenizer/stream_decoder.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

// Its tokens are the given byte strings; the first is special.
class FakeTokenizer : public VocabularyTokenizer {
 public:
  FakeTokenizer(const std::vector<std::string>& bytes, bool drops_space = false)
      : VocabularyTokenizer(MakeVocabulary(bytes.size()), bytes, drops_space) {}

 protected:
  void EncodeText(absl::string_view, bool, std::vector<int32_t>*) const override {}

 private:
  static Vocabulary MakeVocabulary(size_t size) {
    Vocabulary vocabulary;
    for (size_t id = 0; id < size; ++id) vocabulary.tokens.push_back(std::to_string(id));
    vocabulary.kinds.assign(size, TokenKind::kNormal);
    vocabulary.kinds[0] = TokenKind::kControl;
    return vocabulary;
  }
};

// The pieces of tokens 1, 2, ... and of the end.
std::vector<std::string> Stream(const std::vector<std::string>& bytes, std::vector<std::string> stop,
                                bool drops_space = false) {
  std::vector<std::string> all = {"<s>"};
  all.insert(all.end(), bytes.begin(), bytes.end());
  const FakeTokenizer tokenizer(all, drops_space);
  StreamDecoder decoder(&tokenizer, std::move(stop));
  std::vector<std::string> pieces;
  for (size_t id = 1; id < all.size(); ++id) pieces.push_back(decoder.Add(static_cast<int32_t>(id)));
  pieces.push_back(decoder.Finish());
  return pieces;
}

TEST(StreamDecoderTest, PassesWholeCharactersOn) {
  EXPECT_THAT(Stream({"a", "b c"}, {}), ElementsAre("a", "b c", ""));
}

TEST(StreamDecoderTest, HoldsHalfACharacter) {
  EXPECT_THAT(Stream({"x\xF0\x9F", "\x98", "\x80y"}, {}), ElementsAre("x", "", "\xF0\x9F\x98\x80y", ""));
}

TEST(StreamDecoderTest, BrokenBytesBecomeReplacementCharacters) {
  EXPECT_THAT(Stream({"\xE4", "a"}, {}), ElementsAre("", "\xEF\xBF\xBD" "a", ""));
  EXPECT_THAT(Stream({"a\xE4\xB8"}, {}), ElementsAre("a", "\xEF\xBF\xBD"));
  EXPECT_THAT(Stream({"\xFF\x80"}, {}), ElementsAre("\xEF\xBF\xBD\xEF\xBF\xBD", ""));
}

TEST(StreamDecoderTest, StopsInsideAToken) {
  const FakeTokenizer tokenizer({"<s>", "one END two", "more"});
  StreamDecoder decoder(&tokenizer, {"END"});
  EXPECT_EQ(decoder.Add(1), "one ");
  EXPECT_TRUE(decoder.stopped());
  EXPECT_EQ(decoder.Add(2), "");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoderTest, StopStringSpansTokens) {
  EXPECT_THAT(Stream({"a\n", "\nEN", "D b"}, {"\n\nEND"}), ElementsAre("a", "", "", ""));
}

TEST(StreamDecoderTest, AFalseStartIsShownLater) {
  EXPECT_THAT(Stream({"a\n", "b", "\n"}, {"\n\n"}), ElementsAre("a", "\nb", "", "\n"));
}

TEST(StreamDecoderTest, AFalseStartMayHideATrueOne) {
  EXPECT_THAT(Stream({"aab", "aab", "aac!"}, {"aabaac"}), ElementsAre("", "aab", "", ""));
}

TEST(StreamDecoderTest, TheEarliestOfSeveralStopsCounts) {
  EXPECT_THAT(Stream({"a b c"}, {"c", "b", ""}), ElementsAre("a ", ""));
}

TEST(StreamDecoderTest, AStopStringInsideACharactersBytes) {
  EXPECT_THAT(Stream({"a\xE4\xB8", "\xAD" "b"}, {"\xE4\xB8\xAD"}), ElementsAre("a", "", ""));
}

TEST(StreamDecoderTest, SpecialTokensHaveNoText) {
  const FakeTokenizer tokenizer({"<s>", " a"}, /*drops_space=*/true);
  StreamDecoder decoder(&tokenizer, {});
  EXPECT_EQ(decoder.Add(0), "");
  EXPECT_EQ(decoder.Add(1), "a");
  EXPECT_EQ(decoder.Add(0), "");
  EXPECT_EQ(decoder.Add(1), " a");
}

TEST(StreamDecoderTest, OnlyTokenizersThatDropTheFirstSpaceDropIt) {
  EXPECT_THAT(Stream({" a", " b"}, {}, true), ElementsAre("a", " b", ""));
  EXPECT_THAT(Stream({" a", " b"}, {}, false), ElementsAre(" a", " b", ""));
}

TEST(StreamDecoderTest, PiecesTogetherAreTheDecodedText) {
  uint32_t random = 7;
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> bytes = {"<s>"};
    for (int i = 0; i < 30; ++i) {
      std::string token;
      for (int k = 0; k < 3; ++k) {
        random = random * 1664525 + 1013904223;
        static constexpr char kBytes[] = "ab \xE4\xB8\xAD\xF0\x9F\x98\x80\xFF";
        token += kBytes[(random >> 16) % (sizeof(kBytes) - 1)];
      }
      bytes.push_back(token);
    }
    const FakeTokenizer tokenizer(bytes, round % 2 == 0);
    StreamDecoder decoder(&tokenizer, {"never there"});
    std::vector<int32_t> ids;
    std::string text;
    for (int32_t id = 1; id < static_cast<int32_t>(bytes.size()); ++id) {
      ids.push_back(id);
      const std::string piece = decoder.Add(id);
      ASSERT_EQ(ReplaceBrokenUtf8(piece), piece);
      text += piece;
    }
    text += decoder.Finish();
    ASSERT_EQ(text, tokenizer.Decode(ids, true));
  }
}

}  // namespace
}  // namespace attune
