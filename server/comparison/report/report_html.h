#ifndef ATTUNE_SERVER_COMPARISON_REPORT_HTML_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_HTML_H_

#include <string>

#include "absl/time/time.h"
#include "server/comparison/comparison.h"

namespace attune {

// A comparison as one page that needs nothing else: HTML5, style and drawings inside, no script, and a policy that
// allows none. Of any comparison, finished or not. `now` is when it is written. Pure.
std::string ReportHtml(const Comparison& comparison, absl::Time now);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_HTML_H_
