#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_PARAPHRASE_TABLES_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_PARAPHRASE_TABLES_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

// English words that rules of paraphrase.h know; all in lower case.
namespace attune {

struct Contraction {
  const char* first;
  const char* second;  // empty: `first` is one word that is contracted
  const char* contracted;
  bool needs_next;  // only where a word follows: "I know who they are" has no short form
};

// The contraction of two words that follow each other; null if there is none.
const Contraction* FindContraction(absl::string_view first, absl::string_view second);
// What a contraction stands for, "'s" and "'d" aside, which stand for two things.
std::optional<std::string> Expansion(absl::string_view contracted);

// A word that says the same in every common sense of `word`.
std::optional<std::string> Synonym(absl::string_view word);

bool IsNumberWord(absl::string_view word);
// Pronouns and conjunctions that lean on what was said before.
bool LeansOnContext(absl::string_view word);
// I, you, he and so on.
bool IsSubjectPronoun(absl::string_view word);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_PARAPHRASE_TABLES_H_
