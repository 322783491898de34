#include "server/comparison/report/label_placement.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace attune {
namespace {

constexpr double kGap = 9;         // from a point to its label
constexpr double kAside = 14;      // as far as this from its point a label needs no line to it
constexpr int kMoreRounds = 3;     // in which each makes way for those that came after it
constexpr double kCrossing = 100;  // weight of a label that the line to another crosses
constexpr double kCovering = 1e6;  // weight of a covered square pixel

// Right, left, above and below the point, then ever further up and down on both sides.
std::vector<Box> Candidates(const PointLabel& label) {
  std::vector<Box> candidates;
  const auto add = [&](double left, double top) {
    candidates.push_back({left, top, left + label.width, top + label.height});
  };
  const double right_of = label.x + kGap, left_of = label.x - kGap - label.width;
  const double middle = label.y - label.height / 2, centred = label.x - label.width / 2;
  add(right_of, middle);
  add(left_of, middle);
  for (double step = label.height; step < 12 * label.height; step += label.height / 4) {
    for (double top : {middle - step, middle + step}) {
      for (double left : {right_of, left_of, centred, centred - label.width / 4, centred + label.width / 4})
        add(left, top);
    }
  }
  return candidates;
}

Box Inside(Box box, const Box& frame) {
  const double shift_x = std::max(0.0, frame.left - box.left) - std::max(0.0, box.right - frame.right);
  const double shift_y = std::max(0.0, frame.top - box.top) - std::max(0.0, box.bottom - frame.bottom);
  return {box.left + shift_x, box.top + shift_y, box.right + shift_x, box.bottom + shift_y};
}

double Covered(const Box& box, const std::vector<Box>& others) {
  double covered = 0;
  for (const Box& other : others) covered += Overlap(box, other);
  return covered;
}

double Distance(const Box& box, const PointLabel& point) {
  return std::hypot(std::clamp(point.x, box.left, box.right) - point.x,
                    std::clamp(point.y, box.top, box.bottom) - point.y);
}

// How far a label is from its point, more if it might be read as another point's.
double Misleading(const Box& box, const PointLabel& own, const std::vector<PointLabel>& all) {
  const double distance = Distance(box, own);
  double sum = distance;
  for (const PointLabel& other : all) {
    if (&other != &own) sum += 3 * std::max(0.0, std::min(distance, kAside) + kGap - Distance(box, other));
  }
  return sum;
}

// How many of the boxes a straight line from the point to its label would cross.
int Crossings(const Box& box, const PointLabel& point, const std::vector<Box>& others) {
  const double x = std::clamp(point.x, box.left, box.right), y = std::clamp(point.y, box.top, box.bottom);
  const auto is_crossed = [&](const Box& other) {
    for (double way = 0.1; way < 1; way += 0.1) {
      const double at_x = point.x + way * (x - point.x), at_y = point.y + way * (y - point.y);
      if (at_x > other.left && at_x < other.right && at_y > other.top && at_y < other.bottom) return true;
    }
    return false;
  };
  return std::count_if(others.begin(), others.end(), is_crossed);
}

// The line's own box, a pixel wide, for labels that come later.
Box LeaderBox(const Box& box, const PointLabel& point) {
  const double x = std::clamp(point.x, box.left, box.right), y = std::clamp(point.y, box.top, box.bottom);
  return {std::min(x, point.x), std::min(y, point.y), std::max(x, point.x) + 1, std::max(y, point.y) + 1};
}

// For a label among the others, of which `places` has the first ones; its own is left out.
Box BestPlace(const PointLabel& label, const std::vector<PointLabel>& labels, const std::vector<Box>& obstacles,
              const std::vector<Box>& places, size_t own, const Box& frame) {
  std::vector<Box> taken = obstacles, others;
  for (size_t i = 0; i < places.size(); ++i) {
    if (i == own) continue;
    others.push_back(places[i]);
    taken.push_back(places[i]);
    taken.push_back(LeaderBox(places[i], labels[i]));
  }
  Box best;
  double least = std::numeric_limits<double>::infinity();
  for (const Box& candidate : Candidates(label)) {
    const Box box = Inside(candidate, frame);
    const double cost =
        kCovering * Covered(box, taken) + kCrossing * Crossings(box, label, others) + Misleading(box, label, labels);
    if (cost >= least) continue;
    least = cost;
    best = box;
  }
  return best;
}

}  // namespace

double Overlap(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return width > 0 && height > 0 ? width * height : 0;
}

std::vector<Box> PlaceLabels(const std::vector<PointLabel>& labels, const std::vector<Box>& obstacles,
                             const Box& frame) {
  std::vector<Box> places;
  for (const PointLabel& label : labels)
    places.push_back(BestPlace(label, labels, obstacles, places, places.size(), frame));
  for (int round = 0; round < kMoreRounds; ++round) {
    for (size_t i = 0; i < labels.size(); ++i) {
      places[i] = BestPlace(labels[i], labels, obstacles, places, i, frame);
    }
  }
  return places;
}

}  // namespace attune
