#include "server/tokenizer/byte_alphabet.h"

#include <array>

#include "absl/strings/ascii.h"
#include "common/utf8.h"

namespace attune {
namespace {

constexpr uint32_t kFirstReplacement = 0x100;
constexpr int kReplacements = 68;  // bytes that do not print

struct Alphabet {
  std::array<std::string, 256> chars;
  std::array<uint8_t, kReplacements> replaced;

  Alphabet() {
    int count = 0;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      if (!prints) replaced[count] = static_cast<uint8_t>(byte);
      AppendUtf8(prints ? byte : kFirstReplacement + count++, &chars[byte]);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const auto* const alphabet = new Alphabet();
  return *alphabet;
}

}  // namespace

const std::string& ByteAlphabetChar(uint8_t byte) { return TheAlphabet().chars[byte]; }

bool BytesOfByteAlphabet(absl::string_view text, std::string* bytes) {
  const Alphabet& alphabet = TheAlphabet();
  bytes->clear();
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    i += c.length;
    uint8_t byte = static_cast<uint8_t>(c.code);
    if (c.code >= kFirstReplacement && c.code < kFirstReplacement + kReplacements) {
      byte = alphabet.replaced[c.code - kFirstReplacement];
    } else if (c.code >= 256) {
      return false;
    }
    if (alphabet.chars[byte] != text.substr(i - c.length, c.length)) return false;
    bytes->push_back(static_cast<char>(byte));
  }
  return true;
}

int ByteOfHexToken(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    if (!absl::ascii_isxdigit(c)) return -1;
    byte = byte * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
  }
  return byte;
}

}  // namespace attune
