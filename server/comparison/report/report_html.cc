#include "server/comparison/report/report_html.h"

#include "absl/strings/str_cat.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_sections.h"
#include "server/comparison/report/report_style.h"

namespace attune {
namespace {

std::string Title(const Comparison& comparison) {
  const std::string& name = comparison.spec.display_name.empty() ? comparison.spec.id : comparison.spec.display_name;
  const Contender* winner = Winner(comparison);
  const absl::string_view result = winner != nullptr ? ContenderTitle(winner->kind) : StateTitle(comparison.state);
  return EscapeHtml(absl::StrCat(CutText(name, 80), name.empty() ? "" : ": ", result));
}

std::string Head(const Comparison& comparison) {
  return absl::StrCat(
      "<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>",
      Title(comparison), "</title>\n<style>\n", ReportStyle(), "</style>\n</head>\n");
}

std::string Footer(absl::Time now) {
  const std::string day = absl::FormatTime("%-d %B %Y, %H:%M UTC", now, absl::UTCTimeZone());
  return absl::StrCat("<footer><p>Written by Attune on ", day, ".</p></footer>\n");
}

}  // namespace

std::string ReportHtml(const Comparison& comparison, absl::Time now) {
  return absl::StrCat(absl::StrCat("<!DOCTYPE html>\n<html lang=\"en\">\n", Head(comparison), "<body>\n<main>\n"),
                      HeadSection(comparison, now), ContendersSection(comparison), CostSection(comparison),
                      CurvesSection(comparison), SideEffectsSection(comparison), OtherFiguresSection(comparison), TrialsSection(comparison),
                      ExamplesSection(comparison), SettingsSection(comparison), GlossarySection(comparison),
                      "</main>\n", Footer(now), "</body>\n</html>\n");
}

}  // namespace attune
