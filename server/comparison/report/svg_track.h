#ifndef ATTUNE_SERVER_COMPARISON_REPORT_SVG_TRACK_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_SVG_TRACK_H_

#include <string>

namespace attune {

// A bar from 0 to the value with its interval, or a tick at the value on a band, over a line that spans low to high
// over the width that the page gives. REQUIRES: finite, low < high.
struct Track {
  std::string title;
  double low = 0, high = 1;
  double value = 0, lower = 0, upper = 0;  // lower == upper: no interval
  bool is_bar = true;
  bool is_marked = false;
};
std::string TrackSvg(const Track& track);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_SVG_TRACK_H_
