#ifndef ATTUNE_SERVER_COMPARISON_REPORT_INTERVAL_TABLE_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_INTERVAL_TABLE_H_

#include <optional>
#include <string>
#include <vector>

#include "server/comparison/comparison.h"

namespace attune {

// One row of an interval table.
struct IntervalRow {
  std::string name;                // not escaped
  std::optional<Measure> measure;  // unset: `note` stands in its place
  std::string note;                // not escaped; beneath the figure
  bool is_marked = false;
};

// What all rows' tracks span.
struct Span {
  double low = 0, high = 1;
};
// All finite figures and intervals; and 0 if `with_zero`. Never empty.
Span SpanOf(const std::vector<IntervalRow>& rows, bool with_zero);

// A table of names, bars (or ticks) with intervals on one scale, and figures.
std::string IntervalTable(const std::string& caption, const std::vector<IntervalRow>& rows, const Span& span,
                          bool has_bars);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_INTERVAL_TABLE_H_
