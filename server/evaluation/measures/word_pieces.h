#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_WORD_PIECES_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_WORD_PIECES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// A text taken apart so that words can be changed and the rest stays as it is. Used by the rules of paraphrase.h.
namespace attune {

// A word with the white space before it. Joined, a text's pieces are the text; the last may be white space alone.
struct WordPiece {
  std::string space, before, core, after;  // before and after: ASCII punctuation around the word

  std::string Text() const { return space + before + core + after; }
};

std::vector<WordPiece> TakeApart(absl::string_view text);
std::string Join(const std::vector<WordPiece>& pieces);

// Whether the piece is a word of language: letters, perhaps with apostrophes and hyphens inside. Numbers, addresses,
// placeholders and code are not.
bool IsPlainWord(const WordPiece& piece);
// Two or more letters, all of them A to Z.
bool IsAcronym(absl::string_view core);

bool HasDigit(absl::string_view text);

// `word` (in lower case) with the case of `model`: capitalised, all capitals or neither.
std::string WithCaseOf(absl::string_view model, absl::string_view word);

// Lower case, and ' for the typographic apostrophe: how tables spell words.
std::string TableForm(absl::string_view core);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_WORD_PIECES_H_
