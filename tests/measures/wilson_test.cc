#include "server/evaluation/measures/wilson.h"

#include <gtest/gtest.h>

namespace attune {
namespace {

// The expected numbers come from an independent calculation in double precision.
TEST(WilsonTest, AgreesWithKnownIntervals) {
  Proportion p = WilsonInterval(8, 10);
  EXPECT_DOUBLE_EQ(p.value, 0.8);
  EXPECT_NEAR(p.lower, 0.49016247, 1e-7);
  EXPECT_NEAR(p.upper, 0.94331784, 1e-7);
  EXPECT_EQ(p.count, 10);
  p = WilsonInterval(425, 500);
  EXPECT_NEAR(p.lower, 0.81603892, 1e-7);
  EXPECT_NEAR(p.upper, 0.87862404, 1e-7);
}

TEST(WilsonTest, StaysInsideAtTheEnds) {
  Proportion none = WilsonInterval(0, 10);
  EXPECT_EQ(none.lower, 0);
  EXPECT_NEAR(none.upper, 0.27753280, 1e-7);
  Proportion all = WilsonInterval(10, 10);
  EXPECT_NEAR(all.lower, 0.72246720, 1e-7);
  EXPECT_EQ(all.upper, 1);
}

TEST(WilsonTest, NoTrialsGiveZeros) {
  Proportion p = WilsonInterval(0, 0);
  EXPECT_EQ(p.value, 0);
  EXPECT_EQ(p.upper, 0);
  EXPECT_EQ(p.count, 0);
}

}  // namespace
}  // namespace attune
