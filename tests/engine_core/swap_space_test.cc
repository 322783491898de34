#include "server/engine/swap_space.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace attune {
namespace {

TEST(SwapSpaceTest, LessThanAPageIsComputedAnew) {
  EXPECT_FALSE(IsWorthSwapping(0, 16));
  EXPECT_FALSE(IsWorthSwapping(15, 16));
  EXPECT_TRUE(IsWorthSwapping(16, 16));
  EXPECT_TRUE(IsWorthSwapping(1000, 16));
  EXPECT_TRUE(IsWorthSwapping(1, 1));
}

// Grows by 4, 4 and 2, and then no more.
class SwapSpaceGrowthTest : public ::testing::Test {
 protected:
  std::vector<int64_t> left_ = {2, 4, 4};
  SwapSpace swap_{[this]() -> int64_t {
    if (left_.empty()) return 0;
    const int64_t added = left_.back();
    left_.pop_back();
    return added;
  }};
};

TEST_F(SwapSpaceGrowthTest, GrowsOnlyAsFarAsItIsNeeded) {
  EXPECT_EQ(swap_.total(), 0);
  const auto three = swap_.Allocate(3);
  ASSERT_TRUE(three);
  EXPECT_EQ(swap_.total(), 4);
  EXPECT_EQ(swap_.used(), 3);
  swap_.Release(*three);
  EXPECT_EQ(swap_.used(), 0);
  ASSERT_TRUE(swap_.Allocate(4));
  EXPECT_EQ(swap_.total(), 4) << "what was given back is used again";
  ASSERT_TRUE(swap_.Allocate(1));
  EXPECT_EQ(swap_.total(), 8);
}

TEST_F(SwapSpaceGrowthTest, GivesAllSlotsOrNone) {
  const auto seven = swap_.Allocate(7);
  ASSERT_TRUE(seven);
  EXPECT_FALSE(swap_.Allocate(4));
  EXPECT_EQ(swap_.used(), 7);
  EXPECT_EQ(swap_.total(), 10);
  const auto three = swap_.Allocate(3);
  ASSERT_TRUE(three);
  EXPECT_FALSE(swap_.Allocate(1));
  std::set<int32_t> all(seven->begin(), seven->end());
  all.insert(three->begin(), three->end());
  EXPECT_EQ(all.size(), 10u) << "nobody shares a slot";
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin(), 9);
  swap_.Release(*seven);
  EXPECT_TRUE(swap_.Allocate(7));
}

}  // namespace
}  // namespace attune
