#include "common/utf8.h"

#include <gtest/gtest.h>

namespace attune {
namespace {

TEST(Utf8Test, OverlongFormsSurrogatesAndWhatIsCutAreNotValid) {
  for (const char* text : {"", "plain", "caf\xC3\xA9", "\xE4\xBD\xA0", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(text)) << text;
  }
  for (const char* text : {"\x80", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\xE4\xBD", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(text)) << text;
  }
}

TEST(Utf8Test, CharactersAreCountedAndNotCutInTwo) {
  const char text[] = "a\xE4\xBD\xA0z";  // one byte, three, one
  EXPECT_EQ(CountUtf8Characters(text), 3u);
  for (size_t within : {2, 3}) {
    EXPECT_EQ(CharacterStartBefore(text, within), 1u);
    EXPECT_EQ(CharacterStartAfter(text, within), 4u);
  }
  for (size_t start : {0, 1, 4, 5}) {
    EXPECT_EQ(CharacterStartBefore(text, start), start);
    EXPECT_EQ(CharacterStartAfter(text, start), start);
  }
}

TEST(Utf8Test, ABrokenSequenceBecomesOneReplacement) {
  EXPECT_EQ(ReplaceBrokenUtf8("a\xE4\xBDz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(ReplaceBrokenUtf8("a\xE4\xBD", /*keep_cut=*/true), "a\xE4\xBD");
  EXPECT_EQ(CutUtf8Bytes("a\xE4\xBD"), 2u);
}

}  // namespace
}  // namespace attune
