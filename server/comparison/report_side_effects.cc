#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/comparison/html_text.h"
#include "server/comparison/interval_table.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report_missing.h"
#include "server/comparison/report_names.h"
#include "server/comparison/report_numbers.h"
#include "server/comparison/report_sections.h"

namespace attune {
namespace {

std::string Panel(const Comparison& comparison, absl::string_view name, absl::string_view question) {
  std::vector<IntervalRow> rows;
  std::vector<std::string> missing;
  for (const Contender* contender : ByRank(comparison)) {
    const std::string title(ContenderTitle(contender->kind));
    if (const Measure* measure = FiniteMeasure(*contender, name)) {
      rows.push_back({title, *measure, "", Winner(comparison) == contender});
    } else {
      missing.push_back(absl::StrCat(title, " (", EscapeHtml(WhyMissing(comparison, *contender, name)), ")"));
    }
  }
  if (rows.empty()) return "";
  const MeasureMeaning meaning = MeaningOf(name);
  const absl::string_view unit = InfoOf(name).unit;
  return absl::StrCat(
      "<div class=\"panel\">\n<h3>", question, "</h3>\n<p class=\"note\"><strong>", InfoOf(name).title,
      unit.empty() ? "" : absl::StrCat(", ", unit), ".</strong> ", meaning.reading, "</p>\n",
      IntervalTable(std::string(InfoOf(name).title), rows, SpanOf(rows, true), true),
      missing.empty() ? "" : absl::StrCat("<p class=\"note\">Not measured: ", absl::StrJoin(missing, ", "), ".</p>\n"),
      "</div>\n");
}

}  // namespace

std::string SideEffectsSection(const Comparison& comparison) {
  const std::string panels = absl::StrCat(Panel(comparison, kForgetting, "Does it lose other skills?"),
                                          Panel(comparison, kDivergence, "How far is it from the base model?"),
                                          Panel(comparison, kConsistency, "Does wording change the answer?"),
                                          Panel(comparison, kOverfitting, "Did it learn examples by heart?"),
                                          Panel(comparison, kCalibrationError, "Is it as sure as it is right?"));
  if (panels.empty()) return "";
  return absl::StrCat("<section id=\"side-effects\">\n<h2>Side effects</h2>\n<div class=\"panels\">\n", panels,
                      "</div>\n</section>\n");
}

}  // namespace attune
