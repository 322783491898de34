#include "server/comparison/report/axis_ticks.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

TEST(AxisTicksTest, Linear) {
  EXPECT_THAT(LinearTicks(0.27, 1.01, 6), ElementsAre(DoubleEq(0.4), DoubleEq(0.6), DoubleEq(0.8), DoubleEq(1.0)));
  EXPECT_THAT(LinearTicks(-3, 3, 6), ElementsAre(-3, -2, -1, 0, 1, 2, 3));
  for (double width : {1e-9, 0.013, 1.0, 7.7, 1e12}) {
    const size_t count = LinearTicks(5, 5 + width, 6).size();
    EXPECT_GE(count, 1u) << width;
    EXPECT_LE(count, 7u) << width;
  }
}

TEST(AxisTicksTest, Logarithmic) {
  EXPECT_THAT(LogTicks(0.5, 2000, 6), ElementsAre(1, 10, 100, 1000));
  EXPECT_THAT(LogTicks(3, 40, 6), ElementsAre(5, 10, 20));
  EXPECT_LE(LogTicks(1e-9, 1e9, 5).size(), 5u);
}

TEST(AxisTicksTest, Time) {
  EXPECT_THAT(TimeTicks(5, 5000, 6), ElementsAre(10, 60, 600, 3600));
  EXPECT_THAT(TimeTicks(80, 700, 6), ElementsAre(120, 300, 600));
}

}  // namespace
}  // namespace attune
