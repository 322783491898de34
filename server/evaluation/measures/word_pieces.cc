#include "server/evaluation/measures/word_pieces.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "server/evaluation/measures/characters.h"

namespace attune {
namespace {

bool IsLetter(char c) { return absl::ascii_isalpha(c) || static_cast<uint8_t>(c) >= 0x80; }

WordPiece MakePiece(absl::string_view space, absl::string_view word) {
  size_t begin = 0, end = word.size();
  while (begin < end && absl::ascii_ispunct(word[begin])) ++begin;
  while (end > begin && absl::ascii_ispunct(word[end - 1])) --end;
  return {std::string(space), std::string(word.substr(0, begin)), std::string(word.substr(begin, end - begin)),
          std::string(word.substr(end))};
}

}  // namespace

std::vector<WordPiece> TakeApart(absl::string_view text) {
  std::vector<WordPiece> pieces;
  size_t at = 0;
  for (absl::string_view word : SplitWords(text)) {
    const size_t begin = word.data() - text.data();
    pieces.push_back(MakePiece(text.substr(at, begin - at), word));
    at = begin + word.size();
  }
  if (at < text.size()) pieces.push_back(MakePiece(text.substr(at), ""));
  return pieces;
}

std::string Join(const std::vector<WordPiece>& pieces) {
  std::string text;
  for (const WordPiece& piece : pieces) text += piece.Text();
  return text;
}

bool IsPlainWord(const WordPiece& piece) {
  constexpr absl::string_view kOfCode = "{}<>@/\\_#$%&*+=|`~[]^";
  const auto is_of_code = [&](char c) { return kOfCode.find(c) != kOfCode.npos; };
  const auto is_of_word = [](char c) { return IsLetter(c) || c == '\'' || c == '-'; };
  return !piece.core.empty() && std::all_of(piece.core.begin(), piece.core.end(), is_of_word) &&
         std::none_of(piece.before.begin(), piece.before.end(), is_of_code) &&
         std::none_of(piece.after.begin(), piece.after.end(), is_of_code);
}

bool IsAcronym(absl::string_view core) {
  return core.size() >= 2 && std::all_of(core.begin(), core.end(), absl::ascii_isupper);
}

bool HasDigit(absl::string_view text) { return std::any_of(text.begin(), text.end(), absl::ascii_isdigit); }

std::string WithCaseOf(absl::string_view model, absl::string_view word) {
  if (model.size() > 1 && model == UpperCase(model)) return UpperCase(word);
  std::string out(word);
  if (!model.empty() && absl::ascii_isupper(model[0])) out[0] = absl::ascii_toupper(out[0]);
  return out;
}

std::string TableForm(absl::string_view core) { return absl::StrReplaceAll(LowerCase(core), {{"\u2019", "'"}}); }

}  // namespace attune
