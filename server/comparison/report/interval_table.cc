#include "server/comparison/report/interval_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/svg_track.h"

namespace attune {
namespace {

std::string TrackOf(const IntervalRow& row, const Span& span, bool has_bars) {
  const Measure& measure = *row.measure;
  Track track{.low = span.low, .high = span.high, .value = measure.value, .is_bar = has_bars};
  track.is_marked = row.is_marked;
  track.title = absl::StrCat(row.name, ": ", ValueText(measure));
  if (HasInterval(measure)) {
    absl::StrAppend(&track.title, ", 95% interval ", IntervalText(measure));
    track.lower = measure.lower;
    track.upper = measure.upper;
  }
  return TrackSvg(track);
}

std::string FigureCell(const IntervalRow& row) {
  std::string cell = absl::StrCat("<span class=\"figure\">", ValueText(*row.measure), "</span>");
  const std::string interval = IntervalText(*row.measure);
  if (!interval.empty()) absl::StrAppend(&cell, " <span class=\"range\">", interval, "</span>");
  return cell;
}

std::string RowHtml(const IntervalRow& row, const Span& span, bool has_bars) {
  std::string html = absl::StrCat("<tr", row.is_marked ? " class=\"marked\"" : "", "><th scope=\"row\">",
                                  row.is_marked ? "<span class=\"sign\">◆</span> " : "", Isolated(row.name));
  const std::string note = row.note.empty() ? "" : absl::StrCat("<span class=\"note\">", Isolated(row.note), "</span>");
  if (!row.measure.has_value() || !IsTellable(row.measure->value)) {
    return absl::StrCat(html, "</th><td colspan=\"2\">", note, "</td></tr>");
  }
  return absl::StrCat(html, note, "</th><td class=\"track-cell\">", TrackOf(row, span, has_bars), "</td><td>",
                      FigureCell(row), "</td></tr>");
}

}  // namespace

Span SpanOf(const std::vector<IntervalRow>& rows, bool with_zero) {
  double low = with_zero ? 0 : 1e300, high = with_zero ? 0 : -1e300;
  const auto include = [&](double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  };
  for (const IntervalRow& row : rows) {
    if (!row.measure.has_value() || !IsTellable(row.measure->value)) continue;
    include(row.measure->value);
    if (!HasInterval(*row.measure)) continue;
    include(row.measure->lower);
    include(row.measure->upper);
  }
  if (low > high) return {};
  return high > low ? Span{low, high} : Span{low - 0.5, high + 0.5};
}

std::string IntervalTable(const std::string& caption, const std::vector<IntervalRow>& rows, const Span& span,
                          bool has_bars) {
  std::string html = absl::StrCat("<table class=\"intervals\"><caption class=\"unseen\">", EscapeHtml(caption),
                                  "</caption><thead class=\"unseen\"><tr><th scope=\"col\">Name</th>"
                                  "<th scope=\"col\">Drawing</th><th scope=\"col\">Figure</th></tr></thead><tbody>");
  for (const IntervalRow& row : rows) absl::StrAppend(&html, RowHtml(row, span, has_bars));
  return absl::StrCat(html, "</tbody></table>\n");
}

}  // namespace attune
