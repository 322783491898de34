#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_EXACT_MATCH_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_EXACT_MATCH_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attune {

// A short answer as SQuAD compares it (Rajpurkar et al. 2016): lower case, without ASCII punctuation and
// without the words a, an and the; one space between words.
std::string NormalizeAnswer(absl::string_view text);

enum class AnswerForm {
  kStripped,    // white space at both ends does not count
  kNormalized,  // as NormalizeAnswer leaves it
};

// Whether the answer equals any of the references.
bool ExactMatch(absl::string_view answer, absl::Span<const std::string> references, AnswerForm form);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_EXACT_MATCH_H_
