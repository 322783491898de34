#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_CHARACTERS_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_CHARACTERS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Texts in the units that measures count: characters and words. Every byte that is
// not part of well-formed UTF-8 is a character of its own. The views are into `text`.
namespace attune {

std::vector<absl::string_view> Characters(absl::string_view text);

// Unicode's White_Space and the separators U+001C to U+001F: what Python's str.split() splits at.
// REQUIRES: `character` is one of Characters().
bool IsSpaceCharacter(absl::string_view character);

// The stretches between white space.
std::vector<absl::string_view> SplitWords(absl::string_view text);

// Every character in lower case (upper case) where Unicode has a single one.
std::string LowerCase(absl::string_view text);
std::string UpperCase(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_CHARACTERS_H_
