#ifndef ATTUNE_COMMON_UTF8_H_
#define ATTUNE_COMMON_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace attune {

// What stands at one place of a text.
struct Utf8Char {
  uint32_t code = 0xFFFD;  // the code point; U+FFFD if not valid
  size_t length = 1;       // bytes; of a broken sequence, the part that one U+FFFD stands for
  bool valid = false;
  bool cut = false;  // not valid only because the text ends here
};

// Whether a byte can only stand behind others of its character.
inline bool IsUtf8Continuation(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

// REQUIRES: position < text.size().
Utf8Char DecodeUtf8(absl::string_view text, size_t position);

void AppendUtf8(uint32_t code, std::string* out);

// Whether `text` is well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool IsValidUtf8(absl::string_view text);

// Characters of well-formed text.
size_t CountUtf8Characters(absl::string_view text);

// The nearest place at or before (after) `position` where no character is cut in two.
size_t CharacterStartBefore(absl::string_view text, size_t position);
size_t CharacterStartAfter(absl::string_view text, size_t position);

// Every broken sequence becomes one U+FFFD, except, if `keep_cut`, a character
// that the end of the text cuts: its bytes stay.
std::string ReplaceBrokenUtf8(absl::string_view text, bool keep_cut = false);

// Bytes at the end of `text` that begin a character and do not finish it.
size_t CutUtf8Bytes(absl::string_view text);

// Unicode's White_Space.
bool IsUnicodeSpace(uint32_t code);

}  // namespace attune

#endif  // ATTUNE_COMMON_UTF8_H_
