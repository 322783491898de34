#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/interval_table.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

std::string TrialNote(const Trial& trial, bool is_chosen) {
  switch (trial.state) {
    case Trial::State::kPlanned:
      return "not tried";
    case Trial::State::kRunning:
      return "being tried";
    case Trial::State::kFailed:
      return trial.error.empty() ? "failed" : absl::StrCat("failed: ", CutText(trial.error, 300));
    case Trial::State::kDone:
      break;
  }
  const std::string time = trial.device_seconds > 0 ? SecondsText(trial.device_seconds) : "";
  return absl::StrCat(is_chosen ? "chosen" : "", is_chosen && !time.empty() ? ", " : "", time);
}

std::vector<IntervalRow> RowsOf(const Contender& contender) {
  std::vector<IntervalRow> rows;
  for (size_t i = 0; i < contender.trials.size(); ++i) {
    const Trial& trial = contender.trials[i];
    const bool is_chosen = static_cast<int32_t>(i) == contender.best_trial;
    IntervalRow row;
    row.name = trial.settings.empty() ? absl::StrCat("setting ", i + 1) : CutText(trial.settings, 200);
    row.note = TrialNote(trial, is_chosen);
    row.is_marked = is_chosen;
    if (trial.state == Trial::State::kDone) {
      row.measure = trial.validation;
      row.measure->name = std::string(kQuality);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string SummaryOf(const Contender& contender) {
  const auto done = std::count_if(contender.trials.begin(), contender.trials.end(),
                                  [](const Trial& trial) { return trial.state == Trial::State::kDone; });
  const size_t all = contender.trials.size();
  return absl::StrCat(all == 1 ? "One setting" : absl::StrCat(all, " settings"),
                      done == static_cast<int64_t>(all) ? " tried" : absl::StrCat(", ", done, " finished"));
}

}  // namespace

std::string TrialsSection(const Comparison& comparison) {
  std::vector<IntervalRow> all;
  std::string methods;
  for (const Contender& contender : comparison.contenders) {
    const std::vector<IntervalRow> rows = RowsOf(contender);
    all.insert(all.end(), rows.begin(), rows.end());
  }
  const Span span = SpanOf(all, false);
  for (const Contender* contender : ByRank(comparison)) {
    if (contender->trials.empty()) continue;
    absl::StrAppend(
        &methods, "<div class=\"panel\">\n<h3>", ContenderTitle(contender->kind), " <span class=\"note\">",
        SummaryOf(*contender), "</span></h3>\n",
        IntervalTable(absl::StrCat("Trials of ", ContenderTitle(contender->kind)), RowsOf(*contender), span, false),
        "</div>\n");
  }
  if (methods.empty()) return "";
  return absl::StrCat(
      "<section id=\"trials\">\n<h2>How honest the search was</h2>\n<p class=\"prose\">Every setting that "
      "was tried, with its result on the validation examples, all on one scale. The test examples were "
      "not looked at here. <span class=\"sign\">◆</span> marks the chosen setting.</p>\n"
      "<div class=\"panels\">\n",
      methods, "</div>\n</section>\n");
}

}  // namespace attune
