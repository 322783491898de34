#ifndef ATTUNE_SERVER_COMPARISON_REPORT_STYLE_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_STYLE_H_

#include "absl/strings/string_view.h"

namespace attune {

// A report's style sheet: light and dark, for phones, wide screens and A4. Text contrasts by 4.5:1 or more (WCAG AA).
absl::string_view ReportStyle();

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_STYLE_H_
