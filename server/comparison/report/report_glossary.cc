#include <string>

#include "absl/strings/str_cat.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

std::string Term(absl::string_view title, absl::string_view definition, absl::string_view reading) {
  return absl::StrCat("<div><dt>", title, "</dt><dd>", definition, " <em>", reading, "</em></dd></div>\n");
}

}  // namespace

std::string GlossarySection(const Comparison& comparison) {
  std::string html = "<section id=\"words\">\n<h2>What the words mean</h2>\n<dl class=\"words\">\n";
  absl::StrAppend(&html,
                  Term("95% interval",
                       "Were the comparison repeated with other test examples, intervals made this way would hold "
                       "the true figure in about 95 of 100 cases.",
                       "Narrow is sure, wide is not."),
                  Term("Tied", "The difference from the best may well be chance: a paired test on the same examples.",
                       "Choose between tied methods by cost and side effects."));
  for (const MeasureInfo& info : MeasureInfos()) {
    if (!IsMeasured(comparison, info.name)) continue;
    const MeasureMeaning meaning = MeaningOf(info.name);
    absl::StrAppend(&html, Term(info.title, meaning.definition, meaning.reading));
  }
  absl::StrAppend(&html, "</dl>\n");
  if (!comparison.contenders.empty()) absl::StrAppend(&html, "<h3>The methods</h3>\n<dl class=\"words\">\n");
  for (const Contender* contender : ByRank(comparison)) {
    absl::StrAppend(&html, "<div><dt>", ContenderTitle(contender->kind), "</dt><dd>", ContenderMeaning(contender->kind),
                    "</dd></div>\n");
  }
  if (!comparison.contenders.empty()) absl::StrAppend(&html, "</dl>\n");
  return absl::StrCat(html, "</section>\n");
}

}  // namespace attune
