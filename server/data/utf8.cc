#include "server/data/utf8.h"

#include <cstdint>

#include "server/tokenizer/utf8.h"

namespace attune {
namespace {

bool IsContinuation(char c) { return (static_cast<uint8_t>(c) & 0xc0) == 0x80; }

}  // namespace

bool IsValidUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Char character = DecodeUtf8(text, i);
    if (!character.valid) return false;
    i += character.length;
  }
  return true;
}

size_t CharacterStartBefore(absl::string_view text, size_t position) {
  while (position > 0 && position < text.size() && IsContinuation(text[position])) --position;
  return position;
}

size_t CharacterStartAfter(absl::string_view text, size_t position) {
  while (position < text.size() && IsContinuation(text[position])) ++position;
  return position;
}

}  // namespace attune
