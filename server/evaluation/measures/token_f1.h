#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_TOKEN_F1_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_TOKEN_F1_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attune {

// F1 of the words that the answer shares with a reference, both normalised (SQuAD, Rajpurkar et al. 2016);
// the best over the references. 0 to 1. If one of the two has no words: 1 if neither has, else 0 (SQuAD 2.0).
double TokenF1(absl::string_view answer, absl::Span<const std::string> references);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_TOKEN_F1_H_
