#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_SENTENCE_ORDER_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_SENTENCE_ORDER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace attune {

// The text with two neighbouring sentences swapped, which `seed` chooses among those that can be: the text is one
// paragraph of three or more sentences without quotations, the last sentence stays, and neither the two nor the one
// after them is a question or leans on what is said before (LeansOnContext). Nothing if there are none.
std::optional<std::string> SwapSentences(absl::string_view text, uint64_t seed);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_SENTENCE_ORDER_H_
