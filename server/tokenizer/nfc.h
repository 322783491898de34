#ifndef ATTUNE_SERVER_TOKENIZER_NFC_H_
#define ATTUNE_SERVER_TOKENIZER_NFC_H_

#include <string>

#include "absl/strings/string_view.h"

namespace attune {

// Unicode's normalization form C: characters are composed where they can be, and combining marks are in their
// canonical order. Bytes that are no valid UTF-8 stay, and nothing composes across them. Thread-safe.
std::string ToNfc(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_NFC_H_
