#include "server/comparison/report/report_numbers.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "server/comparison/measure_names.h"

namespace attune {
namespace {

TEST(ReportNumbersTest, Counts) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1'000), "1,000");
  EXPECT_EQ(CountText(12'345'678), "12,345,678");
}

TEST(ReportNumbersTest, Shares) {
  EXPECT_EQ(ShareText(0.9123), "91.2%");
  EXPECT_EQ(PointsText(-0.0131), "−1.3 points");
  EXPECT_EQ(PointsText(-0.0001), "0.0 points");
}

TEST(ReportNumbersTest, Times) {
  EXPECT_EQ(SecondsText(0), "none");
  EXPECT_EQ(SecondsText(0.42), "0.4 s");
  EXPECT_EQ(SecondsText(59.4), "59 s");
  EXPECT_EQ(SecondsText(59.6), "1 min 00 s");
  EXPECT_EQ(SecondsText(125), "2 min 05 s");
  EXPECT_EQ(SecondsText(3599), "1 h 00 min");
  EXPECT_EQ(SecondsText(11'400), "3 h 10 min");
  EXPECT_EQ(MillisecondsText(4.24), "4.2 ms");
  EXPECT_EQ(MillisecondsText(41.5), "42 ms");
  EXPECT_EQ(MillisecondsText(12'300), "12 s");
}

TEST(ReportNumbersTest, SizesAndPrices) {
  EXPECT_EQ(BytesText(0), "none");
  EXPECT_EQ(BytesText(999'600), "1.00 MB");
  EXPECT_EQ(BytesText(12'345'678), "12.3 MB");
  EXPECT_EQ(BytesText(2.5e9), "2.50 GB");
  EXPECT_EQ(EnergyText(0), "none");
  EXPECT_EQ(EnergyText(640.2), "640 J");
  EXPECT_EQ(EnergyText(999.7), "1.00 kJ");
  EXPECT_EQ(EnergyText(12'345), "12.3 kJ");
  EXPECT_EQ(EnergyText(1.02e6), "1.02 MJ");
  EXPECT_EQ(ValueText({std::string(kSearchEnergy), 4200}), "4.20 kJ");
  EXPECT_EQ(PriceText(0.0123), "0.012");
  EXPECT_EQ(PriceText(1.239), "1.24");
}

TEST(ReportNumbersTest, NoNumberIsADash) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  for (double v : {nan, infinity, -infinity}) {
    for (auto text : {ShareText, PointsText, SecondsText, BytesText, EnergyText, MillisecondsText, PriceText, PlainText}) {
      EXPECT_EQ(text(v), "–");
    }
  }
}

TEST(ReportNumbersTest, Intervals) {
  EXPECT_EQ(IntervalText({std::string(kQuality), 0.91, 0.898, 0.924, 10}), "89.8–92.4%");
  EXPECT_EQ(IntervalText({std::string(kForgetting), 0.01, -0.002, 0.02, 10}), "−0.2 to 2.0");
  EXPECT_EQ(IntervalText({std::string(kDivergence), 0.1, 0.05, 0.2, 10}), "0.05–0.20");
  EXPECT_EQ(IntervalText({std::string(kTrainingSeconds), 5, 5, 5, 0}), "");
  EXPECT_EQ(IntervalText({std::string(kQuality), 0.5, std::nan(""), 0.6, 10}), "");
}

}  // namespace
}  // namespace attune
