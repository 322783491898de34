#include "server/comparison/report/label_placement.h"

#include <random>

#include "gtest/gtest.h"

namespace attune {
namespace {

const Box kFrame = {0, 0, 700, 400};

void ExpectApart(const std::vector<Box>& boxes) {
  for (size_t i = 0; i < boxes.size(); ++i) {
    EXPECT_GE(boxes[i].left, kFrame.left);
    EXPECT_GE(boxes[i].top, kFrame.top);
    EXPECT_LE(boxes[i].right, kFrame.right);
    EXPECT_LE(boxes[i].bottom, kFrame.bottom);
    for (size_t k = 0; k < i; ++k) EXPECT_EQ(Overlap(boxes[i], boxes[k]), 0) << i << " and " << k;
  }
}

TEST(LabelPlacementTest, Overlap) {
  EXPECT_EQ(Overlap({0, 0, 2, 2}, {1, 1, 3, 3}), 1);
  EXPECT_EQ(Overlap({0, 0, 2, 2}, {2, 0, 3, 2}), 0);
  EXPECT_EQ(Overlap({0, 0, 2, 2}, {5, 5, 6, 6}), 0);
}

TEST(LabelPlacementTest, AloneItStandsBesideItsPoint) {
  const Box box = PlaceLabels({{100, 100, 50, 18}}, {}, kFrame)[0];
  EXPECT_GT(box.left, 100);
  EXPECT_LT(box.left, 115);
  EXPECT_EQ((box.top + box.bottom) / 2, 100);
}

TEST(LabelPlacementTest, AtTheEdgeItTurnsInwards) {
  const std::vector<Box> boxes = PlaceLabels({{695, 100, 80, 18}}, {{688, 93, 702, 107}}, kFrame);
  ExpectApart(boxes);
  EXPECT_EQ(Overlap(boxes[0], {688, 93, 702, 107}), 0);
}

TEST(LabelPlacementTest, TenPointsOnTopOfEachOther) {
  std::vector<PointLabel> labels(10, {350, 200, 150, 18});
  ExpectApart(PlaceLabels(labels, {{343, 193, 357, 207}}, kFrame));
}

TEST(LabelPlacementTest, RandomClusters) {
  std::mt19937 random(7);
  std::normal_distribution<double> x(350, 60), y(60, 25);
  for (int round = 0; round < 100; ++round) {
    std::vector<PointLabel> labels;
    for (int i = 0; i < 10; ++i) labels.push_back({x(random), y(random), 130, 18});
    ExpectApart(PlaceLabels(labels, {}, kFrame));
  }
}

}  // namespace
}  // namespace attune
