#include "server/comparison/report/svg_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/utf8.h"
#include "server/comparison/report/axis_ticks.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/label_placement.h"

namespace attune {
namespace {

constexpr double kCharacterWidth = 8.2;  // of the widest common system font at 13 px, on average
constexpr double kBoldCharacterWidth = 9.2;
constexpr double kLabelHeight = 18;
constexpr double kRadius = 5;

struct Scale {
  double low = 0, high = 1, from = 0, to = 1;
  double At(double v) const { return from + (v - low) / (high - low) * (to - from); }
};

std::string Number(double v) { return absl::StrFormat("%.1f", v); }

std::string Line(double x1, double y1, double x2, double y2, absl::string_view kind) {
  return absl::StrCat("<line class=\"", kind, "\" x1=\"", Number(x1), "\" y1=\"", Number(y1), "\" x2=\"", Number(x2),
                      "\" y2=\"", Number(y2), "\"/>");
}

std::string Text(double x, double y, absl::string_view anchor, absl::string_view kind, absl::string_view text) {
  return absl::StrCat("<text class=\"", kind, "\" x=\"", Number(x), "\" y=\"", Number(y), "\" text-anchor=\"", anchor,
                      "\">", EscapeHtml(text), "</text>");
}

// Where things of one plot are, in pixels.
class Frame {
 public:
  Frame(const ScatterPlot& plot, int width, int height);
  double X(const ScatterPoint& point) const;
  double Y(double value) const { return y_.At(value); }
  Box Area() const { return area_; }
  std::string Axes(const ScatterPlot& plot, int width, int height) const;

 private:
  void FitCosts(const ScatterPlot& plot);
  void FitValues(const ScatterPlot& plot);

  Box area_;
  Scale x_, y_;  // x over log10 of the cost
  double free_x_ = 0;
  bool has_free_ = false, has_costs_ = false;
};

Frame::Frame(const ScatterPlot& plot, int width, int height) : area_{56, 30, width - 10.0, height - 52.0} {
  FitCosts(plot);
  FitValues(plot);
}

void Frame::FitCosts(const ScatterPlot& plot) {
  double low = 1e300, high = 0;
  for (const ScatterPoint& point : plot.points) {
    if (point.cost <= 0) {
      has_free_ = true;
      continue;
    }
    low = std::min(low, point.cost);
    high = std::max(high, point.cost);
  }
  has_costs_ = high > 0;
  if (!has_costs_) low = high = 1;
  const double room = has_free_ ? (area_.right - area_.left) * 0.16 : 0;
  free_x_ = area_.left + room / 2;
  const double margin = std::max(0.15, 0.08 * std::log10(high / low));
  x_ = {std::log10(low) - margin, std::log10(high) + margin, area_.left + room, area_.right};
}

void Frame::FitValues(const ScatterPlot& plot) {
  double low = 1e300, high = -1e300;
  for (const ScatterPoint& point : plot.points) {
    low = std::min({low, point.value, point.lower});
    high = std::max({high, point.value, point.upper});
  }
  if (low > high) low = 0, high = 1;
  const double margin = std::max(0.005, 0.06 * (high - low));
  // With room for labels above the best.
  y_ = {low - margin, high + margin, area_.bottom, area_.top + kLabelHeight};
}

double Frame::X(const ScatterPoint& point) const { return point.cost > 0 ? x_.At(std::log10(point.cost)) : free_x_; }

std::string Frame::Axes(const ScatterPlot& plot, int width, int height) const {
  std::string svg;
  for (double tick : LinearTicks(y_.low, y_.high, 6)) {
    absl::StrAppend(&svg, Line(area_.left, Y(tick), area_.right, Y(tick), "grid"),
                    Text(area_.left - 8, Y(tick) + 4, "end", "tick", plot.value_text(tick)));
  }
  absl::StrAppend(&svg, Line(area_.left, area_.bottom, area_.right, area_.bottom, "axis"));
  const auto tick = [&](double x, const std::string& text) {
    absl::StrAppend(&svg, Line(x, area_.bottom, x, area_.bottom + 5, "axis"),
                    Text(x, area_.bottom + 20, "middle", "tick", text));
  };
  if (has_free_) tick(free_x_, plot.cost_text(0));
  if (has_free_ && has_costs_) {
    absl::StrAppend(&svg, Line(x_.from, area_.top, x_.from, area_.bottom, "break"));
  }
  if (has_costs_) {
    const double low = std::pow(10, x_.low), high = std::pow(10, x_.high);
    const int most = std::max(2, static_cast<int>((x_.to - x_.from) / 72));
    for (double cost : plot.is_cost_time ? TimeTicks(low, high, most) : LogTicks(low, high, most)) {
      const double x = x_.At(std::log10(cost));
      if (x < area_.right - 20 && x > x_.from + 20) tick(x, plot.cost_text(cost));
    }
  }
  absl::StrAppend(&svg, Text(0, 14, "start", "axis-title", plot.value_title),
                  Text(width - 10.0, height - 8.0, "end", "axis-title", plot.cost_title));
  return svg;
}

// Diamonds mark: shape, not colour alone.
std::string Mark(double x, double y, bool is_marked) {
  if (!is_marked) {
    return absl::StrCat("<circle class=\"dot\" cx=\"", Number(x), "\" cy=\"", Number(y), "\" r=\"", kRadius, "\"/>");
  }
  const double r = kRadius + 3;
  return absl::StrCat("<path class=\"dot marked\" d=\"M", Number(x), " ", Number(y - r), "L", Number(x + r), " ",
                      Number(y), "L", Number(x), " ", Number(y + r), "L", Number(x - r), " ", Number(y), "Z\"/>");
}

struct PlacedPoint {
  const ScatterPoint* point = nullptr;
  double x = 0, y = 0;
};

// Points of the same cost would hide each other's intervals: they step aside.
std::vector<PlacedPoint> PlacePoints(const ScatterPlot& plot, const Frame& frame) {
  std::vector<PlacedPoint> placed;
  for (const ScatterPoint& point : plot.points) {
    double x = frame.X(point);
    const auto is_taken = [&](double at) {
      return std::any_of(placed.begin(), placed.end(), [&](const PlacedPoint& p) { return std::abs(p.x - at) < 9; });
    };
    const double original = x;
    for (int step = 1; is_taken(x) && step < 12; ++step) x = original + (step % 2 ? 1 : -1) * 10 * ((step + 1) / 2);
    x = std::clamp(x, frame.Area().left + kRadius + 3, frame.Area().right - kRadius - 3);
    placed.push_back({&point, x, frame.Y(point.value)});
  }
  return placed;
}

std::string LabelText(const ScatterPoint& point) {
  return absl::StrCat(CutText(point.label, 28), point.is_marked ? " ◆ winner" : "");
}

std::vector<Box> PlaceAll(const std::vector<PlacedPoint>& points, const Frame& frame) {
  std::vector<PointLabel> labels;
  std::vector<Box> obstacles;
  for (const PlacedPoint& p : points) {
    const double each = p.point->is_marked ? kBoldCharacterWidth : kCharacterWidth;
    labels.push_back({p.x, p.y, each * static_cast<double>(CountUtf8Characters(LabelText(*p.point))), kLabelHeight});
    obstacles.push_back({p.x - kRadius - 3, p.y - kRadius - 3, p.x + kRadius + 3, p.y + kRadius + 3});
    if (p.point->upper > p.point->lower) {
      obstacles.push_back({p.x - 4, frame.Y(p.point->upper) - 1, p.x + 4, frame.Y(p.point->lower) + 1});
    }
  }
  Box area = frame.Area();
  area.left += 4;
  area.bottom -= 3;
  return PlaceLabels(labels, obstacles, area);
}

// A thin line to a label that had to move away from its point.
std::string Leader(const PlacedPoint& p, const Box& box) {
  const double x = std::clamp(p.x, box.left, box.right), y = std::clamp(p.y, box.top, box.bottom);
  return std::hypot(x - p.x, y - p.y) < 16 ? "" : Line(p.x, p.y, x, y, "leader");
}

std::string PointSvg(const PlacedPoint& p, const Frame& frame, const Box& box) {
  const ScatterPoint& point = *p.point;
  std::string svg = absl::StrCat("<g><title>", EscapeHtml(point.title), "</title>");
  if (point.upper > point.lower) {
    const double top = frame.Y(point.upper), bottom = frame.Y(point.lower);
    const absl::string_view kind = point.is_marked ? "interval marked" : "interval";
    absl::StrAppend(&svg, Line(p.x, top, p.x, bottom, kind), Line(p.x - 4, top, p.x + 4, top, kind),
                    Line(p.x - 4, bottom, p.x + 4, bottom, kind));
  }
  // On the side that faces the point, so that an estimate of the width that is too large does no harm.
  const bool is_left = box.right <= p.x;
  absl::StrAppend(&svg, Mark(p.x, p.y, point.is_marked),
                  Text(is_left ? box.right : box.left, box.bottom - 5, is_left ? "end" : "start",
                       point.is_marked ? "label marked" : "label", LabelText(point)),
                  "</g>");
  return svg;
}

}  // namespace

std::string ScatterSvg(const ScatterPlot& plot, absl::string_view id, int width, int height) {
  const Frame frame(plot, width, height);
  std::string svg = absl::StrCat("<svg class=\"plot\" id=\"", id, "\" viewBox=\"0 0 ", width, " ", height,
                                 "\" role=\"img\" aria-labelledby=\"", id, "-title ", id, "-desc\"><title id=\"", id,
                                 "-title\">", EscapeHtml(plot.title), "</title><desc id=\"", id, "-desc\">",
                                 EscapeHtml(plot.description), "</desc>", frame.Axes(plot, width, height));
  const std::vector<PlacedPoint> points = PlacePoints(plot, frame);
  const std::vector<Box> boxes = PlaceAll(points, frame);
  for (size_t i = 0; i < points.size(); ++i) absl::StrAppend(&svg, Leader(points[i], boxes[i]));
  for (size_t i = 0; i < points.size(); ++i) absl::StrAppend(&svg, PointSvg(points[i], frame, boxes[i]));
  return absl::StrCat(svg, "</svg>");
}

}  // namespace attune
