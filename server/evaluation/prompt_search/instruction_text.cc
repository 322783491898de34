#include "server/evaluation/prompt_search/instruction_text.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/utf8.h"

namespace attune {
namespace {

constexpr size_t kMostBytes = 400, kLeastWords = 3;

absl::string_view FirstParagraph(absl::string_view text) {
  text = absl::StripLeadingAsciiWhitespace(text);
  return text.substr(0, text.find("\n\n"));
}

absl::string_view WithoutHeading(absl::string_view text) {
  for (absl::string_view heading : {"instructions:", "instruction:", "prompt:", "task:", "answer:"}) {
    if (absl::StartsWithIgnoreCase(text, heading))
      return absl::StripLeadingAsciiWhitespace(text.substr(heading.size()));
  }
  return text;
}

absl::string_view WithoutMarks(absl::string_view text) {
  while (!text.empty() && (absl::StrContains("\"'`*#-> ", text.substr(0, 1)))) text.remove_prefix(1);
  while (!text.empty() && (absl::StrContains("\"'`* ", text.substr(text.size() - 1)))) text.remove_suffix(1);
  return text;
}

// Whole sentences as far as they go, else nothing: half a sentence instructs nobody.
absl::string_view CutAfterSentence(absl::string_view text) {
  if (text.size() <= kMostBytes) return text;
  const size_t end = text.substr(0, kMostBytes).find_last_of(".!?");
  return end == absl::string_view::npos ? absl::string_view() : text.substr(0, end + 1);
}

std::string Fingerprint(absl::string_view instruction) {
  while (!instruction.empty() && absl::ascii_ispunct(instruction.back())) instruction.remove_suffix(1);
  return absl::AsciiStrToLower(instruction);
}

}  // namespace

std::string CleanInstruction(absl::string_view written) {
  if (!IsValidUtf8(written)) return "";
  const std::vector<absl::string_view> words =
      absl::StrSplit(FirstParagraph(written), absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
  const std::string line = absl::StrJoin(words, " ");
  const absl::string_view text = CutAfterSentence(WithoutMarks(WithoutHeading(WithoutMarks(line))));
  if (std::count(text.begin(), text.end(), ' ') + 1 < static_cast<int64_t>(kLeastWords)) return "";
  const bool is_printable = std::none_of(text.begin(), text.end(), [](char c) { return absl::ascii_iscntrl(c); });
  return is_printable ? std::string(text) : "";
}

std::vector<std::string> CleanInstructions(const std::vector<std::string>& written) {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (const std::string& text : written) {
    std::string instruction = CleanInstruction(text);
    if (!instruction.empty() && seen.insert(Fingerprint(instruction)).second) out.push_back(std::move(instruction));
  }
  return out;
}

}  // namespace attune
