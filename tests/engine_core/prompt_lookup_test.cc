#include "server/engine/prompt_lookup.h"

#include <gtest/gtest.h>

namespace attune {
namespace {

using Tokens = std::vector<int32_t>;

TEST(PromptLookupTest, GoesOnAsAfterTheLongestMatch) {
  //                                  a longer match         a later, shorter one
  EXPECT_EQ(LookUpContinuation({9, 1, 2, 3, 50, 51, 52, 8, 2, 3, 60, 7, 1, 2, 3}, 2), (Tokens{50, 51}));
  EXPECT_EQ(LookUpContinuation({9, 2, 3, 50, 51, 8, 2, 3, 60, 61, 2, 3}, 2), (Tokens{60, 61})) << "the last place";
}

TEST(PromptLookupTest, ARepetitionGoesOn) {
  EXPECT_EQ(LookUpContinuation({5, 6, 5, 6, 5, 6}, 8), (Tokens{5, 6}));
  EXPECT_EQ(LookUpContinuation({4, 4, 4, 4}, 3), (Tokens{4}));
}

TEST(PromptLookupTest, NothingWhereNothingMatches) {
  EXPECT_TRUE(LookUpContinuation({1, 2, 3, 4, 5}, 4).empty());
  EXPECT_TRUE(LookUpContinuation({1, 7, 2, 7}, 4).empty()) << "one token is no match";
  EXPECT_TRUE(LookUpContinuation({}, 4).empty());
  EXPECT_TRUE(LookUpContinuation({1}, 4).empty());
}

TEST(PromptLookupTest, VirtualTokensAreLeftAlone) {
  EXPECT_TRUE(LookUpContinuation({-1, -2, 3, -1, -2}, 4).empty());
  EXPECT_EQ(LookUpContinuation({-1, 3, 4, 5, 3, 4}, 4), (Tokens{5, 3, 4}));
}

}  // namespace
}  // namespace attune
