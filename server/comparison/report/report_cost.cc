#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"
#include "server/comparison/report/svg_plot.h"

namespace attune {
namespace {

std::string WholeShareText(double share) { return absl::StrCat(static_cast<int64_t>(share * 1000 + 0.5) / 10.0, "%"); }

std::string CoarseSecondsText(double seconds) {
  if (seconds >= 3600) return absl::StrCat(seconds / 3600, " h");
  if (seconds >= 60) return absl::StrCat(seconds / 60, " min");
  return seconds == 0 ? "none" : absl::StrCat(seconds, " s");
}

std::string CoarsePriceText(double price) { return price == 0 ? "none" : absl::StrCat(price); }

// What a contender cost; unset where that is not known.
const Measure* CostOf(const Contender& contender, absl::string_view measure) {
  static const auto* const nothing = new Measure;
  const Measure* found = FiniteMeasure(contender, measure);
  return found == nullptr && !IsTuned(contender.kind) ? nothing : found;
}

ScatterPoint PointOf(const Comparison& comparison, const Contender& contender, const Measure& quality, double cost) {
  ScatterPoint point{.label = std::string(ContenderTitle(contender.kind)), .title = "", .cost = cost};
  point.value = point.lower = point.upper = quality.value;
  point.title = absl::StrCat(point.label, ": ", ValueText(quality));
  point.is_marked = Winner(comparison) == &contender;
  if (HasInterval(quality)) {
    point.lower = quality.lower;
    point.upper = quality.upper;
    absl::StrAppend(&point.title, ", 95% interval ", IntervalText(quality));
  }
  return point;
}

ScatterPlot EmptyPlot(bool is_price) {
  ScatterPlot plot;
  plot.title = is_price ? "Quality against price" : "Quality against training time";
  plot.cost_title = is_price ? "Price of all trials →" : "Device time of all trials →";
  plot.value_title = "↑ Right answers";
  plot.is_cost_time = !is_price;
  plot.cost_text = is_price ? CoarsePriceText : CoarseSecondsText;
  plot.value_text = WholeShareText;
  return plot;
}

std::string Figure(const ScatterPlot& plot) {
  return absl::StrCat("<figure>\n<div class=\"for-wide\">", ScatterSvg(plot, "plot-wide", 860, 460), "</div>\n",
                      "<div class=\"for-narrow\">", ScatterSvg(plot, "plot-narrow", 350, 400), "</div>\n",
                      "<figcaption>Each mark is a method, its bar the 95% interval of its quality. Cost rises by equal "
                      "factors, not equal steps. Better is up, cheaper is left.</figcaption>\n</figure>\n");
}

}  // namespace

std::string CostSection(const Comparison& comparison) {
  const bool is_price = IsMeasured(comparison, kPrice);
  const absl::string_view cost_measure = is_price ? kPrice : kSearchSeconds;
  ScatterPlot plot = EmptyPlot(is_price);
  std::vector<std::string> left_out;
  for (const Contender* contender : ByRank(comparison)) {
    const Measure* quality = FiniteMeasure(*contender, kQuality);
    const Measure* cost = CostOf(*contender, cost_measure);
    if (quality == nullptr || cost == nullptr || cost->value < 0) {
      left_out.emplace_back(ContenderTitle(contender->kind));
      continue;
    }
    plot.points.push_back(PointOf(comparison, *contender, *quality, cost->value));
    absl::StrAppend(&plot.description, plot.points.back().title, ", cost ",
                    is_price ? PriceText(cost->value) : SecondsText(cost->value), ". ");
  }
  if (plot.points.empty()) return "";
  return absl::StrCat("<section id=\"cost\">\n<h2>What better answers cost</h2>\n", Figure(plot),
                      left_out.empty() ? ""
                                       : absl::StrCat("<p class=\"note\">Not shown, for want of a figure: ",
                                                      absl::StrJoin(left_out, ", "), ".</p>\n"),
                      "</section>\n");
}

}  // namespace attune
