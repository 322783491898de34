#include "server/evaluation/measures/pattern.h"

#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

Pattern Compiled(const char* source) { return Pattern::Compile(source).value(); }

TEST(PatternTest, MatchesTheWhole) {
  const Pattern date = Compiled(R"(\d{4}-\d\d)");
  EXPECT_TRUE(date.FullMatch("2024-05").value());
  EXPECT_FALSE(date.FullMatch("2024-05 ").value());
  EXPECT_FALSE(date.FullMatch("x2024-05").value());
  // Alternatives are tried until one fits the whole.
  EXPECT_TRUE(Compiled("a|ab").FullMatch("ab").value());
  EXPECT_FALSE(Compiled("a$").FullMatch("a\n").value());
  EXPECT_TRUE(Compiled("").FullMatch("").value());
  EXPECT_TRUE(Compiled(R"(\p{Lu}.)").FullMatch("Éß").value());
}

TEST(PatternTest, BrokenUtf8MatchesNothing) {
  EXPECT_FALSE(Compiled(".*").FullMatch("a\xFF").value());
  EXPECT_TRUE(Compiled(".*").FullMatch("a").value());
}

TEST(PatternTest, RefusesWrongPatterns) {
  for (const std::string& source :
       {std::string("("), std::string("[z-a]"), std::string("\\C"), std::string(5000, 'a')}) {
    EXPECT_EQ(GetErrorDetails(Pattern::Compile(source).status()).reason, "BAD_PATTERN") << source;
  }
}

TEST(PatternTest, HostilePatternsEnd) {
  // What stands at the end lets a match begin everywhere and end nowhere.
  const std::string some = std::string(60, 'a') + "bc", many = std::string(Pattern::kMaxTextBytes - 2, 'a') + "bc";
  for (const char* pattern : {"(a+)+b", "(a*)*b", "(?:a|aa)+b", "(a?){40}a{40}b", "(.*)*\\1b", "((a|b)*?c?)*d?b",
                              "a(?R)?b", "(?:.*a)*b", "(?=(a+))\\1*+.*b", "(?<!a{3})(a+?)+b"}) {
    for (const std::string& text : {some, many}) {
      const absl::Time start = absl::Now();
      const absl::StatusOr<bool> matches = Compiled(pattern).FullMatch(text);
      if (matches.ok()) {
        EXPECT_FALSE(*matches) << pattern;
      } else {
        EXPECT_EQ(GetErrorDetails(matches.status()).reason, "PATTERN_LIMIT") << pattern;
      }
      EXPECT_LT(absl::Now() - start, absl::Seconds(20)) << pattern;  // much less, but for sanitizers and busy machines
    }
  }
  EXPECT_FALSE(Compiled("(a+)+b").FullMatch(some).ok());
  EXPECT_FALSE(Compiled("a*").FullMatch(many + "a").ok());
}

TEST(PatternTest, Replaces) {
  EXPECT_EQ(Compiled("(b)(.)").ReplaceAll("abcabd", "$2$1"), "acbadb");
  EXPECT_EQ(Compiled("x").ReplaceAll(std::string(1000, 'x'), "long"), [] {
    std::string out;
    for (int i = 0; i < 1000; ++i) out += "long";
    return out;
  }());
  EXPECT_EQ(Compiled("y").ReplaceAll("", "z"), "");
}

}  // namespace
}  // namespace attune
