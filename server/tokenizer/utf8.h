#ifndef ATTUNE_SERVER_TOKENIZER_UTF8_H_
#define ATTUNE_SERVER_TOKENIZER_UTF8_H_

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

// REQUIRES: position < text.size().
Utf8Char DecodeUtf8(absl::string_view text, size_t position);

void AppendUtf8(uint32_t code, std::string* out);

// Every broken sequence becomes one U+FFFD, except, if `keep_cut`, a character
// that the end of the text cuts: its bytes stay.
std::string ReplaceBrokenUtf8(absl::string_view text, bool keep_cut = false);

// Bytes at the end of `text` that begin a character and do not finish it.
size_t CutUtf8Bytes(absl::string_view text);

// Unicode's White_Space.
bool IsUnicodeSpace(uint32_t code);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_UTF8_H_
