#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/interval_table.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"
#include "server/comparison/report/svg_track.h"

namespace attune {
namespace {

constexpr size_t kMostColumns = 8;  // of a table, for paper

struct Column {
  absl::string_view measure, title;
};

// Reasons why figures are missing, told once below the table.
class Footnotes {
 public:
  std::string Mark(const std::string& reason) {
    size_t i = 0;
    while (i < reasons_.size() && reasons_[i] != reason) ++i;
    if (i == reasons_.size()) reasons_.push_back(reason);
    return absl::StrCat("<span class=\"missing\" title=\"", EscapeHtml(reason), "\">–<sup>", Letter(i),
                        "</sup></span>");
  }
  std::string Html() const {
    if (reasons_.empty()) return "";
    std::string html = "<p class=\"note\">Not measured, because: ";
    for (size_t i = 0; i < reasons_.size(); ++i) {
      absl::StrAppend(&html, i ? "; " : "", "<sup>", Letter(i), "</sup> ", EscapeHtml(reasons_[i]));
    }
    return absl::StrCat(html, ".</p>\n");
  }

 private:
  static std::string Letter(size_t i) { return std::string(1, static_cast<char>('a' + i % 26)); }
  std::vector<std::string> reasons_;
};

// What the best of a column shows; empty where all show the same. What shows alike is best alike.
std::string BestText(const Comparison& comparison, absl::string_view name) {
  const bool is_higher_better = InfoOf(name).is_higher_better;
  const Measure* best = nullptr;
  std::set<std::string> texts;
  for (const Contender& contender : comparison.contenders) {
    const Measure* measure = FiniteMeasure(contender, name);
    if (measure == nullptr) continue;
    texts.insert(ValueText(*measure));
    if (best == nullptr || (is_higher_better ? measure->value > best->value : measure->value < best->value)) {
      best = measure;
    }
  }
  return texts.size() < 2 ? "" : ValueText(*best);
}

std::string QualityTrack(const Comparison& comparison, const Contender& contender, const Measure& quality) {
  std::vector<IntervalRow> rows;
  for (const Contender& other : comparison.contenders) {
    if (const Measure* measure = FiniteMeasure(other, kQuality)) rows.push_back({"", *measure, "", false});
  }
  const Span span = SpanOf(rows, false);
  Track track{.low = span.low, .high = span.high, .value = quality.value, .is_bar = false};
  track.title =
      absl::StrCat(ContenderTitle(contender.kind), ": ", ValueText(quality), ", 95% interval ", IntervalText(quality));
  track.is_marked = Winner(comparison) == &contender;
  if (HasInterval(quality)) {
    track.lower = quality.lower;
    track.upper = quality.upper;
  }
  return TrackSvg(track);
}

std::string Cell(absl::string_view title, absl::string_view kind, absl::string_view html) {
  return absl::StrCat("<td role=\"cell\" class=\"", kind, "\" data-label=\"", EscapeHtml(title), "\">", html, "</td>");
}

std::string MeasureCell(const Comparison& comparison, const Contender& contender, const Column& column,
                        Footnotes* footnotes) {
  const Measure* measure = FiniteMeasure(contender, column.measure);
  if (measure == nullptr) {
    return Cell(column.title, "number", footnotes->Mark(WhyMissing(comparison, contender, column.measure)));
  }
  const std::string text = ValueText(*measure), interval = IntervalText(*measure);
  const bool is_best = text == BestText(comparison, column.measure);
  std::string html = absl::StrCat("<span class=\"figure\">", is_best ? "<strong>" : "", text,
                                  is_best ? "</strong> <span class=\"best\">best</span>" : "", "</span>");
  if (!interval.empty()) absl::StrAppend(&html, " <span class=\"range\">", interval, "</span>");
  if (column.measure != kQuality) return Cell(column.title, "number", html);
  return Cell(column.title, "number quality", absl::StrCat(html, QualityTrack(comparison, contender, *measure)));
}

// Whether the test part tells it from the best.
std::string Standing(const Comparison& comparison, const Contender& contender, Footnotes* footnotes) {
  if (contender.rank <= 0) return footnotes->Mark(WhyMissing(comparison, contender, kQuality));
  if (contender.rank == 1) return "the best";
  const std::string p = std::isfinite(contender.p_value) ? absl::StrFormat("p = %.2g", contender.p_value) : "p unknown";
  const absl::string_view meaning = contender.ties_best ? "the test examples do not tell it from the best"
                                                        : "worse than the best, beyond what chance explains";
  return absl::StrCat("<abbr title=\"", meaning, " (", p, ", paired test, corrected for the number of methods)\">",
                      contender.ties_best ? "≈ tied" : "▼ behind", "</abbr>");
}

std::string StateNote(const Contender& contender) {
  std::string note = contender.note;
  const auto with = [&](absl::string_view state) {
    return note.empty() ? std::string(state) : absl::StrCat(state, ": ", note);
  };
  switch (contender.state) {
    case Contender::State::kWaiting:
      return with("Waiting");
    case Contender::State::kSearching:
      return with("Searching its settings");
    case Contender::State::kStopped:
      return with("Stopped early");
    case Contender::State::kFailed:
      return with("Failed");
    case Contender::State::kMeasured:
      return note;
  }
  return note;
}

std::string NameCell(const Comparison& comparison, const Contender& contender) {
  const std::string note = StateNote(contender);
  const bool is_winner = Winner(comparison) == &contender;
  return absl::StrCat("<th role=\"rowheader\" scope=\"row\"><span class=\"name\" title=\"",
                      EscapeHtml(ContenderMeaning(contender.kind)), "\">",
                      is_winner ? "<span class=\"sign\">◆</span> " : "", ContenderTitle(contender.kind), "</span>",
                      is_winner ? " <span class=\"winner\">winner</span>" : "",
                      note.empty() ? "" : absl::StrCat("<span class=\"note\">", Isolated(note), "</span>"), "</th>");
}

std::string RowOf(const Comparison& comparison, const Contender& contender, const std::vector<Column>& columns,
                  bool is_main, Footnotes* footnotes) {
  std::string html = absl::StrCat("<tr role=\"row\"", Winner(comparison) == &contender ? " class=\"marked\"" : "", ">");
  if (is_main) {
    absl::StrAppend(&html, Cell("Rank", "rank", contender.rank > 0 ? absl::StrCat(contender.rank) : "–"),
                    NameCell(comparison, contender));
  } else {
    absl::StrAppend(&html, "<th role=\"rowheader\" scope=\"row\">", ContenderTitle(contender.kind), "</th>");
  }
  for (const Column& column : columns) {
    absl::StrAppend(&html, MeasureCell(comparison, contender, column, footnotes));
    if (column.measure == kQuality) {
      absl::StrAppend(&html, Cell("Against the best", "standing", Standing(comparison, contender, footnotes)));
    }
  }
  return absl::StrCat(html, "</tr>\n");
}

std::string HeaderCell(absl::string_view title, absl::string_view meaning, absl::string_view kind) {
  return absl::StrCat("<th role=\"columnheader\" scope=\"col\" class=\"", kind, "\"><span title=\"",
                      EscapeHtml(meaning), "\">", EscapeHtml(title), "</span></th>");
}

std::string Header(const std::vector<Column>& columns, bool is_main) {
  std::string html = "<thead role=\"rowgroup\"><tr role=\"row\">";
  if (is_main) absl::StrAppend(&html, HeaderCell("Rank", "By quality on the test examples", "rank"));
  absl::StrAppend(&html, HeaderCell("Method", "How the model was tuned", "name"));
  for (const Column& column : columns) {
    absl::StrAppend(&html, HeaderCell(column.title, MeaningOf(column.measure).definition, "number"));
    if (column.measure == kQuality) {
      absl::StrAppend(&html, HeaderCell("Against the best", "Whether the difference may be chance", "standing"));
    }
  }
  return absl::StrCat(html, "</tr></thead>\n");
}

std::string Table(const Comparison& comparison, absl::string_view caption, const std::vector<Column>& columns,
                  bool is_main) {
  Footnotes footnotes;
  std::string html = absl::StrCat("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"", caption,
                                  "\">\n<table class=\"cards\" role=\"table\"><caption class=\"unseen\">", caption,
                                  "</caption>\n", Header(columns, is_main), "<tbody role=\"rowgroup\">\n");
  for (const Contender* contender : ByRank(comparison)) {
    absl::StrAppend(&html, RowOf(comparison, *contender, columns, is_main, &footnotes));
  }
  return absl::StrCat(html, "</tbody></table>\n</div>\n", footnotes.Html());
}

std::vector<Column> MainColumns(const Comparison& comparison) {
  std::vector<Column> columns = {{kQuality, "Quality, 95% interval"}, {kTrainingSeconds, "Training"},
                                 {kModelBytes, "Size on disk"},       {kRequestMilliseconds, "Time a request"},
                                 {kForgetting, "Forgetting"},         {kConsistency, "Consistency"}};
  if (IsMeasured(comparison, kPrice)) columns.insert(columns.begin() + 4, {kPrice, "Price"});
  return columns;
}

// Those that the first table leaves out and somebody has.
std::vector<Column> OtherColumns(const Comparison& comparison) {
  std::vector<Column> columns;
  for (absl::string_view name :
       {kMacroF1, kExactMatch, kTokenF1, kRougeL, kChrf, kBleu, kJsonValid, kPatternMatch, kLoss, kPerplexity,
        kCalibrationError, kProbeAccuracy, kRetention, kRetentionLoss, kDivergence, kResampled, kOverfitting, kMemorized, kTwiceTheData,
        kSearchSeconds, kTrainingEnergy, kSearchEnergy, kTrainingMemory, kPromptTokens}) {
    if (IsMeasured(comparison, name)) columns.push_back({name, InfoOf(name).title});
  }
  return columns;
}

}  // namespace

std::string ContendersSection(const Comparison& comparison) {
  if (comparison.contenders.empty()) {
    return "<section id=\"methods\"><h2>The methods, best first</h2><p>No method has been set up yet.</p></section>\n";
  }
  return absl::StrCat(
      "<section id=\"methods\">\n<h2>The methods, best first</h2>\n",
      "<p class=\"prose\">Quality is measured on the same test examples for all. Below it stands its 95% "
      "interval: where the true figure is likely to be.</p>\n",
      Table(comparison, "The methods by rank, with their main figures", MainColumns(comparison), true), "</section>\n");
}

std::string OtherFiguresSection(const Comparison& comparison) {
  const std::vector<Column> columns = OtherColumns(comparison);
  if (columns.empty()) return "";
  // Several tables where one would be wider than paper.
  const size_t tables = (columns.size() + kMostColumns - 1) / kMostColumns, each = (columns.size() + tables - 1) / tables;
  std::string html = "<section id=\"figures\">\n<h2>All other figures</h2>\n";
  for (size_t begin = 0; begin < columns.size(); begin += each) {
    const size_t end = std::min(columns.size(), begin + each);
    const std::vector<Column> some(columns.begin() + begin, columns.begin() + end);
    absl::StrAppend(&html, Table(comparison, absl::StrCat("Other figures of the methods", begin > 0 ? ", continued" : ""), some,
                                 false));
  }
  return absl::StrCat(html, "</section>\n");
}

}  // namespace attune
