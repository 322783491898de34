#include "server/data/utf8.h"

#include <cstdint>

namespace attune {
namespace {

bool IsContinuation(char c) { return (static_cast<uint8_t>(c) & 0xc0) == 0x80; }

// Bytes of the well-formed character at the front of `text`; 0 if there is none.
size_t CharacterSize(absl::string_view text) {
  uint8_t first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return 1;
  size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if (!IsContinuation(text[i])) return 0;
  }
  uint8_t second = static_cast<uint8_t>(text[1]);
  bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  bool surrogate = first == 0xed && second >= 0xa0;
  bool too_large = first == 0xf4 && second >= 0x90;
  return overlong || surrogate || too_large ? 0 : size;
}

}  // namespace

bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    size_t size = CharacterSize(text);
    if (size == 0) return false;
    text.remove_prefix(size);
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
