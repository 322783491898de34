#ifndef ATTUNE_SERVER_COMPARISON_REPORT_AXIS_TICKS_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_AXIS_TICKS_H_

#include <vector>

// Round values for axes. REQUIRES of all: finite, low < high.
namespace attune {

// At most `most` of 1, 2 or 5 times a power of ten apart.
std::vector<double> LinearTicks(double low, double high, int most);
// Powers of ten; 1, 2 and 5 times them where there are few. REQUIRES: low > 0.
std::vector<double> LogTicks(double low, double high, int most);
// As people count time, for a logarithmic axis: seconds, minutes, hours, days. REQUIRES: low > 0.
std::vector<double> TimeTicks(double low, double high, int most);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_AXIS_TICKS_H_
