#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_DUPLICATES_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_DUPLICATES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attune {

// 64 bits of a text (FNV-1a, mixed), the same on every platform. Two of a million different texts have the same with a
// chance below 1e-7, unless they are made to: not for texts of an enemy.
uint64_t HashText(absl::string_view text);

// The hash of the text in lower case with one space between words: texts that differ in nothing else share it.
uint64_t NormalizedHash(absl::string_view text);

// For each text the index of the first that is equal to it but for case and white space; its own if there is none
// before.
std::vector<int64_t> FirstOccurrences(absl::Span<const std::string> texts);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_DUPLICATES_H_
