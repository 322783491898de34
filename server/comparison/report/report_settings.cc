#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/report_command.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

std::string Row(absl::string_view name, absl::string_view html) {
  return absl::StrCat("<tr><th scope=\"row\">", EscapeHtml(name), "</th><td>", html, "</td></tr>\n");
}

std::string RowUnlessEmpty(absl::string_view name, absl::string_view text) {
  return text.empty() ? ""
                      : Row(name, absl::StrCat("<span class=\"written\">", Isolated(CutText(text, 2000)), "</span>"));
}

// "batch-size" as "Batch size".
std::string OptionTitle(std::string name) {
  name[0] = absl::ascii_toupper(static_cast<unsigned char>(name[0]));
  return absl::StrReplaceAll(name, {{"-", " "}});
}

std::string CommonRows(const Comparison& comparison) {
  const ComparisonSpec& spec = comparison.spec;
  const double fraction = spec.test_fraction > 0 ? spec.test_fraction : 0.2;
  std::string rows = absl::StrCat(
      Row("Comparison", absl::StrCat("<code>", EscapeHtml(spec.id), "</code>")),
      RowUnlessEmpty("Base model", spec.base_model), RowUnlessEmpty("Data", spec.dataset),
      RowUnlessEmpty("Validation data", spec.validation_dataset),
      RowUnlessEmpty("Test data",
                     spec.test_dataset.empty() ? absl::StrCat(ShareText(fraction), " of the data") : spec.test_dataset),
      RowUnlessEmpty("Prompt template", spec.data.prompt_template),
      RowUnlessEmpty("Answer template", spec.data.completion_template),
      RowUnlessEmpty("Pattern of right answers", spec.pattern), RowUnlessEmpty("Judge", spec.judge_model),
      RowUnlessEmpty("Judge’s prompt", spec.judge_prompt), RowUnlessEmpty("Retention set", spec.retention_dataset),
      RowUnlessEmpty("Hand-written prompt", spec.hand_prompt), Row("Seed", absl::StrCat(spec.seed.value_or(42))),
      Row("Settings tried for each method", absl::StrCat("at most ", spec.max_trials > 0 ? spec.max_trials : 2)));
  for (const auto& [name, value] : SetHyperparameters(spec.hyperparameters)) {
    absl::StrAppend(&rows, Row(OptionTitle(name), EscapeHtml(value)));
  }
  return rows;
}

std::string ContenderRow(const Contender& contender) {
  const auto count = static_cast<int32_t>(contender.trials.size());
  const bool has_best = contender.best_trial >= 0 && contender.best_trial < count;
  const std::string settings = has_best ? contender.trials[contender.best_trial].settings : "";
  std::string html = absl::StrCat(
      "<tr><th scope=\"row\">", ContenderTitle(contender.kind), "</th><td>",
      settings.empty() ? "–" : Isolated(CutText(settings, 300)), "</td><td>",
      contender.model.empty() ? "–" : absl::StrCat("<code>", EscapeHtml(contender.model), "</code>"), "</td><td>");
  const std::string prompt = CutText(contender.prompt_template, 2000);
  return absl::StrCat(
      html, prompt.empty() ? "the model’s own" : absl::StrCat("<span class=\"written\">", Isolated(prompt), "</span>"),
      "</td></tr>\n");
}

std::string ContendersTable(const Comparison& comparison) {
  if (comparison.contenders.empty()) return "";
  std::string html =
      "<h3>Chosen settings and models</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Chosen "
      "settings\">\n<table class=\"settings\"><caption class=\"unseen\">Chosen settings of each "
      "method</caption><thead><tr>"
      "<th scope=\"col\">Method</th><th scope=\"col\">Settings</th><th scope=\"col\">Model</th>"
      "<th scope=\"col\">Prompt template</th></tr></thead><tbody>\n";
  for (const Contender* contender : ByRank(comparison)) absl::StrAppend(&html, ContenderRow(*contender));
  return absl::StrCat(html, "</tbody></table>\n</div>\n");
}

}  // namespace

std::string SettingsSection(const Comparison& comparison) {
  return absl::StrCat("<section id=\"settings\">\n<h2>To do it again</h2>\n<pre><code>",
                      EscapeHtml(CompareCommand(comparison)),
                      "</code></pre>\n<table class=\"facts-table\"><caption class=\"unseen\">Settings of the comparison"
                      "</caption><tbody>\n",
                      CommonRows(comparison), "</tbody></table>\n", ContendersTable(comparison), "</section>\n");
}

}  // namespace attune
