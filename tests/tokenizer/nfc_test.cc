#include "common/utf8.h"
#include "server/tokenizer/nfc.h"

#include <gtest/gtest.h>

#include <string>

#include "server/tokenizer/nfc_tables.h"

namespace attune {
namespace {

std::string Text(std::initializer_list<uint32_t> codes) {
  std::string text;
  for (const uint32_t code : codes) AppendUtf8(code, &text);
  return text;
}

TEST(NfcTest, ComposesAndOrders) {
  EXPECT_EQ(ToNfc(""), "");
  EXPECT_EQ(ToNfc("plain text, caf\xC3\xA9"), "plain text, caf\xC3\xA9");
  EXPECT_EQ(ToNfc(Text({'e', 0x301})), Text({0xE9}));
  EXPECT_EQ(ToNfc(Text({'a', 0x302, 0x301})), Text({0x1EA5})) << "two steps";
  EXPECT_EQ(ToNfc(Text({'a', 0x301, 0x302})), Text({0xE1, 0x302})) << "of one class: as they came";
  EXPECT_EQ(ToNfc(Text({'q', 0x307, 0x323})), Text({'q', 0x323, 0x307})) << "by class";
  EXPECT_EQ(ToNfc(Text({0x1E0B, 0x323})), Text({0x1E0D, 0x307})) << "taken apart, ordered, and composed";
  EXPECT_EQ(ToNfc(Text({0x212B, 0x2126, 0xF900})), Text({0xC5, 0x3A9, 0x8C48})) << "other names of one character";
  EXPECT_EQ(ToNfc(Text({0x958, 0x2ADC})), Text({0x915, 0x93C, 0x2ADD, 0x338})) << "excluded from composition";
  EXPECT_EQ(ToNfc(Text({0x301, 'a'})), Text({0x301, 'a'})) << "a mark without a letter";
  EXPECT_EQ(ToNfc(Text({0x9C7, 0x9BE})), Text({0x9CB})) << "class 0 that composes";
}

TEST(NfcTest, HangulIsArithmetic) {
  EXPECT_EQ(ToNfc(Text({0x1112, 0x1161, 0x11AB})), Text({0xD55C}));
  EXPECT_EQ(ToNfc(Text({0xD558, 0x11AB})), Text({0xD55C}));
  EXPECT_EQ(ToNfc(Text({0x1100, 0x1161, 0x11A7})), Text({0xAC00, 0x11A7})) << "the tail before the first";
  for (uint32_t code = 0xAC00; code <= 0xD7A3; ++code) EXPECT_EQ(ToNfc(Text({code})), Text({code}));
}

TEST(NfcTest, BrokenBytesStay) {
  EXPECT_EQ(ToNfc("e\xFF" + Text({0x301}) + "\xF0\x9F"), "e\xFF" + Text({0x301}) + "\xF0\x9F");
}

TEST(NfcTest, TheTablesAreInOrderAndConsistent) {
  for (int i = 1; i < kCanonicalPairCount; ++i) EXPECT_LT(kCanonicalPairs[i - 1].code, kCanonicalPairs[i].code);
  for (int i = 1; i < kCombiningRangeCount; ++i) EXPECT_LT(kCombiningRanges[i - 1].last, kCombiningRanges[i].first);
  for (const CanonicalPair& pair : kCanonicalPairs) {
    const std::string once = ToNfc(Text({pair.code}));
    EXPECT_EQ(ToNfc(once), once) << pair.code;
    EXPECT_EQ(once == Text({pair.code}), pair.composes) << pair.code;
  }
}

}  // namespace
}  // namespace attune
