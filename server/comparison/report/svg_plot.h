#ifndef ATTUNE_SERVER_COMPARISON_REPORT_SVG_PLOT_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_SVG_PLOT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// A scatter plot as inline SVG. Colours and fonts come from the page's style sheet; all texts are escaped here.
namespace attune {

// A figure with its interval, and at which cost it was had.
struct ScatterPoint {
  std::string label, title;                // title: what pointing at it tells
  double cost = 0;                         // 0: free, drawn left of the logarithmic axis
  double value = 0, lower = 0, upper = 0;  // lower == upper: no interval
  bool is_marked = false;
};

struct ScatterPlot {
  std::string title, description;
  std::string cost_title, value_title;
  bool is_cost_time = true;  // ticks in seconds, minutes, hours
  std::string (*cost_text)(double) = nullptr;
  std::string (*value_text)(double) = nullptr;
  std::vector<ScatterPoint> points;
};

// Value upwards, cost to the right. `id` is unique in the page. Not empty even without points.
std::string ScatterSvg(const ScatterPlot& plot, absl::string_view id, int width, int height);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_SVG_PLOT_H_
