#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/interval_table.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

// From few rows to all, and what is foreseen for twice as many.
std::vector<IntervalRow> RowsOf(const Comparison& comparison, const Contender& contender) {
  std::vector<IntervalRow> rows;
  for (const CurveTrial& point : contender.curve) {
    const bool is_done = point.trial.state == Trial::State::kDone;
    rows.push_back({absl::StrCat(CountText(point.examples), " rows"),
                    is_done ? std::optional<Measure>(point.trial.validation) : std::nullopt,
                    is_done ? "" : point.trial.error.empty() ? "not measured" : CutText(point.trial.error, 200), false});
  }
  if (contender.best_trial >= 0) {
    rows.push_back({absl::StrCat("all ", CountText(comparison.train_examples), " rows"),
                    contender.trials[contender.best_trial].validation, "", true});
  }
  if (const Measure* foreseen = FiniteMeasure(contender, kTwiceTheData)) {
    rows.push_back({"twice as many", *foreseen, "foreseen, not measured", false});
  }
  return rows;
}

}  // namespace

std::string CurvesSection(const Comparison& comparison) {
  std::vector<IntervalRow> all;
  for (const Contender& contender : comparison.contenders) {
    if (contender.curve.empty()) continue;
    const std::vector<IntervalRow> rows = RowsOf(comparison, contender);
    all.insert(all.end(), rows.begin(), rows.end());
  }
  const Span span = SpanOf(all, false);
  std::string methods;
  for (const Contender* contender : ByRank(comparison)) {
    if (contender->curve.empty()) continue;
    const absl::string_view title = ContenderTitle(contender->kind);
    const bool tells = FiniteMeasure(*contender, kTwiceTheData) != nullptr;
    absl::StrAppend(&methods, "<div class=\"panel\">\n<h3>", title, "</h3>\n",
                    IntervalTable(absl::StrCat("Learning curve of ", title), RowsOf(comparison, *contender), span, true),
                    tells ? "" : "<p class=\"note\">These points do not tell what more data would bring.</p>\n", "</div>\n");
  }
  if (methods.empty()) return "";
  return absl::StrCat(
      "<section id=\"curves\">\n<h2>What more data brings</h2>\n<p class=\"prose\">The chosen setting, trained on a part of "
      "the rows: quality on the validation examples, all on one scale.</p>\n<div class=\"panels\">\n",
      methods, "</div>\n</section>\n");
}

}  // namespace attune
