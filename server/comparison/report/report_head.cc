#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

std::string TimeElement(absl::Time time) {
  const absl::TimeZone utc = absl::UTCTimeZone();
  return absl::StrCat("<time datetime=\"", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, utc), "\">",
                      absl::FormatTime("%-d %B %Y, %H:%M UTC", time, utc), "</time>");
}

std::string Answer(const Comparison& comparison) {
  if (const Contender* winner = Winner(comparison)) {
    return absl::StrCat("<p class=\"answer\"><span class=\"sign\">◆</span> Take <strong>", ContenderTitle(winner->kind),
                        "</strong></p>");
  }
  switch (comparison.state) {
    case ComparisonState::kQueued:
      return "<p class=\"answer\">No result yet: it has not started</p>";
    case ComparisonState::kRunning:
      return "<p class=\"answer\">No result yet: it is still running</p>";
    case ComparisonState::kCancelled:
      return "<p class=\"answer\">No result: it was cancelled</p>";
    default:
      return "<p class=\"answer\">No method can be recommended</p>";
  }
}

std::string Reasons(const Comparison& comparison) {
  std::string html;
  if (!comparison.verdict.empty())
    absl::StrAppend(&html, "<p class=\"verdict\">", Isolated(comparison.verdict), "</p>");
  if (comparison.error.has_value()) {
    absl::StrAppend(&html, "<p class=\"verdict\"><strong>Error:</strong> ", Isolated(comparison.error->message),
                    " <span class=\"note\">(", Isolated(comparison.error->reason), ")</span></p>");
  } else if (comparison.state != ComparisonState::kSucceeded && !comparison.state_reason.empty()) {
    absl::StrAppend(&html, "<p class=\"verdict\">", Isolated(comparison.state_reason), "</p>");
  }
  return html;
}

// The winner's main figures, in large type.
std::string KeyFigures(const Comparison& comparison) {
  const Contender* winner = Winner(comparison);
  if (winner == nullptr) return "";
  std::string html;
  const auto add = [&](absl::string_view measure, absl::string_view title) {
    const Measure* found = FiniteMeasure(*winner, measure);
    if (found == nullptr) return;
    const std::string interval = measure == kQuality ? IntervalText(*found) : "";
    absl::StrAppend(&html, "<div><dt>", title, "</dt><dd>", ValueText(*found),
                    interval.empty() ? "" : absl::StrCat(" <span class=\"range\">", interval, "</span>"),
                    "</dd></div>");
  };
  add(kQuality, "right answers");
  add(kSearchSeconds, "training, all trials");
  add(kPrice, "price, all trials");
  add(kModelBytes, "on disk");
  add(kRequestMilliseconds, "a request");
  return html.empty() ? "" : absl::StrCat("<dl class=\"key\">", html, "</dl>\n");
}

std::string Fact(absl::string_view name, absl::string_view html) {
  return absl::StrCat("<div><dt>", name, "</dt><dd>", html, "</dd></div>");
}

std::string Examples(const Comparison& comparison) {
  return absl::StrCat(CountText(comparison.train_examples), " to train, ", CountText(comparison.validation_examples),
                      " to choose settings, ", CountText(comparison.test_examples),
                      " to judge (train, validation, test)");
}

std::string DurationText(const Comparison& comparison, absl::Time now) {
  if (!comparison.start_time.has_value()) return "";
  const absl::Duration duration = comparison.end_time.value_or(now) - *comparison.start_time;
  return absl::StrCat(comparison.end_time.has_value() ? ", took " : ", running for ",
                      SecondsText(absl::ToDoubleSeconds(duration)));
}

std::string Facts(const Comparison& comparison, absl::Time now) {
  const ComparisonSpec& spec = comparison.spec;
  std::string data = Isolated(spec.dataset);
  if (!spec.validation_dataset.empty()) absl::StrAppend(&data, "; validation ", Isolated(spec.validation_dataset));
  if (!spec.test_dataset.empty()) absl::StrAppend(&data, "; test ", Isolated(spec.test_dataset));
  return absl::StrCat("<dl class=\"facts\">", Fact("Base model", Isolated(spec.base_model)), Fact("Data", data),
                      Fact("Examples", Examples(comparison)), Fact("Judged by", MetricTitle(comparison.metric)),
                      Fact("Started", absl::StrCat(TimeElement(comparison.start_time.value_or(comparison.create_time)),
                                                   DurationText(comparison, now))),
                      "</dl>\n");
}

}  // namespace

std::string HeadSection(const Comparison& comparison, absl::Time now) {
  const std::string& name = comparison.spec.display_name.empty() ? comparison.spec.id : comparison.spec.display_name;
  return absl::StrCat("<header>\n<p class=\"kicker\">Which tuning method to take · ", StateTitle(comparison.state),
                      "</p>\n<h1>", name.empty() ? "Unnamed comparison" : Isolated(name), "</h1>\n<div class=\"lead\">",
                      Answer(comparison), Reasons(comparison), "</div>\n", KeyFigures(comparison),
                      Facts(comparison, now), "</header>\n");
}

}  // namespace attune
