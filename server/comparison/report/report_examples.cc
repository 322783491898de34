#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/comparison/report/html_text.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_sections.h"

namespace attune {
namespace {

constexpr size_t kMostExamples = 20;
constexpr int kPromptCharacters = 480, kAnswerCharacters = 240;

bool IsRight(const Disagreement& example, const std::string& answer) {
  return absl::StripAsciiWhitespace(answer) == absl::StripAsciiWhitespace(example.expected);
}

std::string AnswerRow(const Disagreement& example, absl::string_view name, const std::string& answer) {
  const bool is_right = IsRight(example, answer);
  const std::string shown = CutText(absl::StripAsciiWhitespace(answer), kAnswerCharacters);
  return absl::StrCat("<tr class=\"", is_right ? "right" : "wrong", "\"><td class=\"mark\">",
                      is_right ? "<span class=\"sign\">✓</span> right" : "<span class=\"sign\">✗</span> wrong",
                      "</td><th scope=\"row\">", Isolated(TitleOfName(name)), "</th><td>",
                      shown.empty() ? "<span class=\"note\">(no answer)</span>" : Isolated(shown), "</td></tr>\n");
}

// Methods in the order of their rank, then names that no contender has.
std::vector<std::string> NamesInOrder(const Comparison& comparison, const Disagreement& example) {
  std::vector<std::string> names;
  for (const Contender* contender : ByRank(comparison)) {
    const std::string name(ContenderName(contender->kind));
    if (example.answers.count(name) > 0) names.push_back(name);
  }
  for (const auto& [name, answer] : example.answers) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

std::string ExampleHtml(const Comparison& comparison, const Disagreement& example, size_t number) {
  std::string html = absl::StrCat(
      "<article>\n<h3>Example ", number, "</h3>\n<blockquote>",
      Isolated(CutText(absl::StripAsciiWhitespace(example.prompt), kPromptCharacters)), "</blockquote>\n",
      "<p><span class=\"note\">Expected</span> <strong>",
      Isolated(CutText(absl::StripAsciiWhitespace(example.expected), kAnswerCharacters)),
      "</strong></p>\n<table class=\"answers\"><caption class=\"unseen\">Answers to example ", number,
      "</caption><thead class=\"unseen\"><tr><th scope=\"col\">Right or wrong</th><th scope=\"col\">Method</th>"
      "<th scope=\"col\">Answer</th></tr></thead><tbody>\n");
  for (const std::string& name : NamesInOrder(comparison, example)) {
    absl::StrAppend(&html, AnswerRow(example, name, example.answers.at(name)));
  }
  return absl::StrCat(html, "</tbody></table>\n</article>\n");
}

}  // namespace

std::string ExamplesSection(const Comparison& comparison) {
  if (comparison.disagreements.empty()) return "";
  const size_t count = std::min(comparison.disagreements.size(), kMostExamples);
  std::string html = absl::StrCat("<section id=\"examples\">\n<h2>Where the methods disagree</h2>\n<p class=\"prose\">",
                                  count == 1 ? "One test example" : absl::StrCat(count, " test examples"),
                                  " with different answers: not a fair sample, but worth reading.</p>\n"
                                  "<div class=\"examples\">\n");
  for (size_t i = 0; i < count; ++i)
    absl::StrAppend(&html, ExampleHtml(comparison, comparison.disagreements[i], i + 1));
  return absl::StrCat(html, "</div>\n</section>\n");
}

}  // namespace attune
