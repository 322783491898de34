#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/interval_table.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

// Titles of methods by the reason why they have no figure, reasons in order of appearance.
class Missing {
 public:
  void Add(const std::string& reason, absl::string_view title) {
    for (auto& [known, titles] : reasons_) {
      if (known == reason) {
        titles.emplace_back(title);
        return;
      }
    }
    reasons_.push_back({reason, {std::string(title)}});
  }
  std::string Html() const {
    std::vector<std::string> parts;
    for (const auto& [reason, titles] : reasons_) {
      parts.push_back(absl::StrCat(absl::StrJoin(titles, ", "), " (", EscapeHtml(reason), ")"));
    }
    if (parts.empty()) return "";
    return absl::StrCat("<p class=\"note\">Not measured: ", absl::StrJoin(parts, "; "), ".</p>\n");
  }

 private:
  std::vector<std::pair<std::string, std::vector<std::string>>> reasons_;
};

std::string Panel(const Comparison& comparison, absl::string_view name, absl::string_view question) {
  std::vector<IntervalRow> rows;
  Missing missing;
  for (const Contender* contender : ByRank(comparison)) {
    const absl::string_view title = ContenderTitle(contender->kind);
    if (const Measure* measure = FiniteMeasure(*contender, name)) {
      rows.push_back({std::string(title), *measure, "", Winner(comparison) == contender});
    } else {
      missing.Add(WhyMissing(comparison, *contender, name), title);
    }
  }
  if (rows.empty()) return "";
  const MeasureInfo& info = InfoOf(name);
  return absl::StrCat("<div class=\"panel\">\n<h3>", question, "</h3>\n<p class=\"note\"><strong>", info.title,
                      info.unit.empty() ? "" : absl::StrCat(", ", info.unit), ".</strong> ", MeaningOf(name).reading,
                      "</p>\n", IntervalTable(std::string(info.title), rows, SpanOf(rows, true), true), missing.Html(),
                      "</div>\n");
}

}  // namespace

std::string SideEffectsSection(const Comparison& comparison) {
  const std::string panels = absl::StrCat(Panel(comparison, kForgetting, "Does it lose other skills?"),
                                          Panel(comparison, kRetentionLoss, "Does it lose what must be kept?"),
                                          Panel(comparison, kDivergence, "How far is it from the base model?"),
                                          Panel(comparison, kConsistency, "Does wording change the answer?"),
                                          Panel(comparison, kResampled, "Does chance change the answer?"),
                                          Panel(comparison, kOverfitting, "Did it learn examples by heart?"),
                                          Panel(comparison, kMemorized, "Would it give training examples away?"),
                                          Panel(comparison, kCalibrationError, "Is it as sure as it is right?"));
  if (panels.empty()) return "";
  return absl::StrCat("<section id=\"side-effects\">\n<h2>Side effects</h2>\n<div class=\"panels\">\n", panels,
                      "</div>\n</section>\n");
}

}  // namespace attune
