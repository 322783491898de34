#include "server/comparison/report/svg_track.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "server/comparison/report/html_text.h"

namespace attune {
namespace {

std::string Percent(double share) { return absl::StrFormat("%.2f%%", 100 * std::clamp(share, 0.0, 1.0)); }

}  // namespace

std::string TrackSvg(const Track& track) {
  const auto share = [&](double v) { return 0.02 + 0.96 * (v - track.low) / (track.high - track.low); };
  const auto at = [&](double v) { return Percent(share(v)); };
  const absl::string_view marked = track.is_marked ? " marked" : "";
  std::string svg = absl::StrCat("<svg class=\"track\" role=\"img\"><title>", EscapeHtml(track.title), "</title>",
                                 "<line class=\"grid\" x1=\"2%\" x2=\"98%\" y1=\"10\" y2=\"10\"/>");
  if (track.is_bar) {
    const double from = share(std::min(0.0, track.value)), to = share(std::max(0.0, track.value));
    absl::StrAppend(&svg, "<rect class=\"bar", marked, "\" x=\"", Percent(from), "\" width=\"", Percent(to - from),
                    "\" y=\"4\" height=\"12\"/><line class=\"axis\" x1=\"", at(0), "\" x2=\"", at(0),
                    "\" y1=\"1\" y2=\"19\"/>");
  }
  if (track.upper > track.lower && track.is_bar) {
    absl::StrAppend(&svg, "<line class=\"interval", marked, "\" x1=\"", at(track.lower), "\" x2=\"", at(track.upper),
                    "\" y1=\"10\" y2=\"10\"/>");
  } else if (track.upper > track.lower) {
    absl::StrAppend(&svg, "<rect class=\"bar", marked, "\" x=\"", at(track.lower), "\" width=\"",
                    Percent(share(track.upper) - share(track.lower)), "\" y=\"5\" height=\"10\"/>");
  }
  if (!track.is_bar) {
    absl::StrAppend(&svg, "<line class=\"value", marked, "\" x1=\"", at(track.value), "\" x2=\"", at(track.value),
                    "\" y1=\"2\" y2=\"18\"/>");
  }
  return absl::StrCat(svg, "</svg>");
}

}  // namespace attune
