#ifndef ATTUNE_SERVER_DATA_UTF8_H_
#define ATTUNE_SERVER_DATA_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace attune {

// Whether `text` is well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool IsValidUtf8(absl::string_view text);

// The nearest place at or before (after) `position` where no character is cut in two.
size_t CharacterStartBefore(absl::string_view text, size_t position);
size_t CharacterStartAfter(absl::string_view text, size_t position);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_UTF8_H_
