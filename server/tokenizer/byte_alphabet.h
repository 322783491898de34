#ifndef ATTUNE_SERVER_TOKENIZER_BYTE_ALPHABET_H_
#define ATTUNE_SERVER_TOKENIZER_BYTE_ALPHABET_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace attune {

// Byte-level vocabularies write each byte as a printable character: bytes that
// print in Latin-1 stand for themselves, the others for U+0100 and up.

// The character of a byte, in UTF-8.
const std::string& ByteAlphabetChar(uint8_t byte);

// The bytes that a token's text stands for; false if it holds a character
// outside the alphabet.
bool BytesOfByteAlphabet(absl::string_view text, std::string* bytes);

// The byte of a token such as "<0x0A>"; -1 if it has another form.
int ByteOfHexToken(absl::string_view token);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_BYTE_ALPHABET_H_
