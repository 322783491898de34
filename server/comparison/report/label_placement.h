#ifndef ATTUNE_SERVER_COMPARISON_REPORT_LABEL_PLACEMENT_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_LABEL_PLACEMENT_H_

#include <vector>

// Where the labels of a plot's points go, so that none covers another, a point or an interval.
namespace attune {

struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
  bool operator==(const Box&) const = default;
};
// The area that both cover; 0 if they do not touch.
double Overlap(const Box& a, const Box& b);

struct PointLabel {
  double x = 0, y = 0;  // the point
  double width = 0, height = 0;
};

// A box for each label, inside `frame`. Greedy, in rounds: labels in order, each at the free place that is nearest to
// its point and furthest from others; where none is free of `obstacles` and of earlier labels, the one that covers
// least.
std::vector<Box> PlaceLabels(const std::vector<PointLabel>& labels, const std::vector<Box>& obstacles,
                             const Box& frame);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_LABEL_PLACEMENT_H_
