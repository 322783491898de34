#include "server/data/held_out.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace attune {
namespace {

TEST(HeldOutTest, CountsByFraction) {
  EXPECT_EQ(HeldOutCount(0, 100), 10);
  EXPECT_EQ(HeldOutCount(0, 101), 11);
  EXPECT_EQ(HeldOutCount(0, 100'000), 500);
  EXPECT_EQ(HeldOutCount(0.5, 9), 5);
  EXPECT_EQ(HeldOutCount(-1, 100), 0);
  EXPECT_EQ(HeldOutCount(0.5, 1), 0);
  EXPECT_EQ(HeldOutCount(0.5, 2), 1);
}

TEST(HeldOutTest, TheSeedChooses) {
  const std::vector<bool> held = ChooseHeldOut(50, 5, 7);
  EXPECT_EQ(std::count(held.begin(), held.end(), true), 5);
  EXPECT_EQ(held, ChooseHeldOut(50, 5, 7));
  EXPECT_NE(held, ChooseHeldOut(50, 5, 8));
}

}  // namespace
}  // namespace attune
