#include "server/evaluation/measures/exact_match.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "server/evaluation/measures/characters.h"
#include "server/evaluation/measures/pattern.h"

namespace attune {
namespace {

std::string InForm(absl::string_view text, AnswerForm form) {
  return form == AnswerForm::kNormalized ? NormalizeAnswer(text) : std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace

std::string NormalizeAnswer(absl::string_view text) {
  static const Pattern* const article = new Pattern(Pattern::Compile("\\b(a|an|the)\\b").value());
  std::string lower = LowerCase(text);
  lower.erase(std::remove_if(lower.begin(), lower.end(), absl::ascii_ispunct), lower.end());
  const std::string plain = article->ReplaceAll(lower, " ");
  return absl::StrJoin(SplitWords(plain), " ");
}

bool ExactMatch(absl::string_view answer, absl::Span<const std::string> references, AnswerForm form) {
  const std::string given = InForm(answer, form);
  return std::any_of(references.begin(), references.end(),
                     [&](const std::string& reference) { return InForm(reference, form) == given; });
}

}  // namespace attune
