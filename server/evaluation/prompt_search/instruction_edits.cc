#include "server/evaluation/prompt_search/instruction_edits.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace attune {
namespace {

constexpr size_t kMostListedLabels = 30;

// Each with its mark, without white space around.
std::vector<std::string> Sentences(absl::string_view text) {
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_mark = text[i] == '.' || text[i] == '!' || text[i] == '?';
    const bool ends = i + 1 == text.size() || absl::ascii_isspace(text[i + 1]);
    if (!(is_mark && ends) && i + 1 < text.size()) continue;
    const absl::string_view sentence = absl::StripAsciiWhitespace(text.substr(begin, i + 1 - begin));
    if (!sentence.empty()) sentences.emplace_back(sentence);
    begin = i + 1;
  }
  return sentences;
}

bool IsListable(const std::vector<std::string>& labels) {
  return !labels.empty() && labels.size() <= kMostListedLabels;
}

bool NamesAll(absl::string_view instruction, const std::vector<std::string>& labels) {
  return std::all_of(labels.begin(), labels.end(),
                     [&](const std::string& label) { return absl::StrContains(instruction, label); });
}

// As a sentence of its own behind the instruction.
std::string Add(const std::string& instruction, absl::string_view sentence) {
  if (instruction.empty()) return std::string(sentence);
  const bool ended = absl::EndsWith(instruction, ".") || absl::EndsWith(instruction, "!") ||
                     absl::EndsWith(instruction, "?") || absl::EndsWith(instruction, ":");
  return absl::StrCat(instruction, ended ? " " : ". ", sentence);
}

}  // namespace

std::vector<std::string> PlainInstructions(const std::vector<std::string>& labels) {
  if (labels.empty()) return {"Give the answer.", "Follow the examples."};
  std::vector<std::string> out = {"Classify the text.", "Choose the label that fits the text best."};
  if (IsListable(labels)) {
    out.push_back(absl::StrCat("Classify the text as one of: ", absl::StrJoin(labels, ", "), "."));
    out.push_back(absl::StrCat("What is the text about? Answer with one of: ", absl::StrJoin(labels, ", "), "."));
  }
  return out;
}

std::vector<std::string> EditInstruction(const std::string& instruction, const std::vector<std::string>& labels) {
  std::vector<std::string> edits;
  const std::vector<std::string> sentences = Sentences(instruction);
  if (sentences.size() > 1) {
    edits.push_back(sentences[0]);
    std::vector<std::string> turned = sentences;
    std::rotate(turned.begin(), turned.end() - 1, turned.end());
    edits.push_back(absl::StrJoin(turned, " "));
  }
  if (IsListable(labels) && !NamesAll(instruction, labels)) {
    edits.push_back(Add(instruction, absl::StrCat("Answer with one of: ", absl::StrJoin(labels, ", "), ".")));
    edits.push_back(Add(absl::StrCat("Labels: ", absl::StrJoin(labels, ", "), "."), instruction));
  }
  edits.push_back(Add(instruction, labels.empty() ? "Give the answer alone." : "Answer with the label alone."));
  std::vector<std::string> distinct;
  for (std::string& edit : edits) {
    absl::StripAsciiWhitespace(&edit);
    const bool known = edit == instruction || std::find(distinct.begin(), distinct.end(), edit) != distinct.end();
    if (!known) distinct.push_back(std::move(edit));
  }
  return distinct;
}

}  // namespace attune
