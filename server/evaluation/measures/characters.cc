#include "server/evaluation/measures/characters.h"

#include <cstdint>

#include "common/utf8.h"
#include "server/evaluation/measures/pattern.h"

namespace attune {
namespace {

// Bytes of the character that starts `text`; 1 for a byte that is none. Overlong forms, surrogates and
// what lies beyond U+10FFFF pass: they only have to be one unit each.
size_t CharacterLength(absl::string_view text) {
  const uint8_t lead = text[0];
  const size_t length = lead >= 0xF0 && lead < 0xF8 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (length > text.size() || lead >= 0xF8) return 1;
  for (size_t i = 1; i < length; ++i) {
    if (!IsUtf8Continuation(text[i])) return 1;
  }
  return length;
}

std::string ChangeCase(absl::string_view text, const char* replacement) {
  static const Pattern* const stretch = new Pattern(Pattern::Compile("[^\\x00-\\x7F]+").value());
  std::string out(text);
  const bool lower = replacement[1] == 'L';
  bool ascii = true;
  for (char& c : out) {
    ascii = ascii && static_cast<uint8_t>(c) < 0x80;
    if (lower ? c >= 'A' && c <= 'Z' : c >= 'a' && c <= 'z') c ^= 0x20;
  }
  return ascii ? out : stretch->ReplaceAll(out, replacement);
}

}  // namespace

std::vector<absl::string_view> Characters(absl::string_view text) {
  std::vector<absl::string_view> out;
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    out.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return out;
}

bool IsSpaceCharacter(absl::string_view character) {
  if (character.size() == 1) {
    const uint8_t c = character[0];
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
  }
  if (character == "\xC2\x85" || character == "\xC2\xA0" || character == "\xE1\x9A\x80" ||
      character == "\xE2\x81\x9F" || character == "\xE3\x80\x80") {
    return true;
  }
  // U+2000 to U+200A, U+2028, U+2029, U+202F
  if (character.size() != 3 || character.substr(0, 2) != "\xE2\x80") return false;
  const uint8_t last = character[2];
  return last <= 0x8A || last == 0xA8 || last == 0xA9 || last == 0xAF;
}

std::vector<absl::string_view> SplitWords(absl::string_view text) {
  std::vector<absl::string_view> words;
  const char* begin = nullptr;
  for (absl::string_view character : Characters(text)) {
    if (!IsSpaceCharacter(character)) {
      if (begin == nullptr) begin = character.data();
    } else if (begin != nullptr) {
      words.emplace_back(begin, character.data() - begin);
      begin = nullptr;
    }
  }
  if (begin != nullptr) words.emplace_back(begin, text.data() + text.size() - begin);
  return words;
}

std::string LowerCase(absl::string_view text) { return ChangeCase(text, "\\L$0"); }
std::string UpperCase(absl::string_view text) { return ChangeCase(text, "\\U$0"); }

}  // namespace attune
