#include "server/comparison/report/html_text.h"

#include <string>

#include "gtest/gtest.h"

namespace attune {
namespace {

TEST(HtmlTextTest, EscapesWhatHtmlReads) {
  EXPECT_EQ(EscapeHtml("a < b && c > \"d\" 'e'"), "a &lt; b &amp;&amp; c &gt; &quot;d&quot; &#39;e&#39;");
  EXPECT_EQ(EscapeHtml(""), "");
  EXPECT_EQ(Isolated("<"), "<bdi>&lt;</bdi>");
}

TEST(HtmlTextTest, ControlCharactersAreShown) {
  EXPECT_EQ(EscapeHtml("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(EscapeHtml(std::string("\0\x1b\r\x7f", 4)), "␀␛␍␡");
}

TEST(HtmlTextTest, WhatIsNoTextIsReplaced) {
  EXPECT_EQ(EscapeHtml("a\xff"
                       "b"),
            "a\ufffdb");
  EXPECT_EQ(EscapeHtml("\xc0\xaf"), "\ufffd\ufffd");                      // overlong
  EXPECT_EQ(EscapeHtml("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");            // a surrogate
  EXPECT_EQ(EscapeHtml("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");  // above U+10FFFF
  EXPECT_EQ(EscapeHtml("\xe2\x82"), "\ufffd\ufffd");                      // cut in two
  EXPECT_EQ(EscapeHtml("\u0085\ufffe\ufdd0"), "\ufffd\ufffd\ufffd");
}

TEST(HtmlTextTest, DirectionIsNotTurned) {
  EXPECT_EQ(EscapeHtml("\u202eevil\u2066"), "\ufffdevil\ufffd");
  EXPECT_EQ(EscapeHtml("שלום \u200f 世界 🙂"), "שלום \u200f 世界 🙂");
}

TEST(HtmlTextTest, CutsBetweenCharacters) {
  EXPECT_EQ(CutText("世界", 2), "世界");
  EXPECT_EQ(CutText("世界人", 2), "世界…");
  EXPECT_EQ(CutText("", 0), "");
  EXPECT_EQ(CutText("a", 0), "…");
  EXPECT_EQ(CutText("\xff\xfe"
                    "x",
                    2),
            "\xff\xfe…");
}

}  // namespace
}  // namespace attune
