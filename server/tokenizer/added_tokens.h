#ifndef ATTUNE_SERVER_TOKENIZER_ADDED_TOKENS_H_
#define ATTUNE_SERVER_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace attune {

// A token that is found in the text before anything else is done with it.
struct AddedToken {
  int32_t id = -1;
  std::string text;
  bool special = false;  // found only where special tokens are parsed
  bool strip_left = false, strip_right = false;  // takes the white space beside it along
};

// A stretch of text between added tokens (id -1), or an added token.
struct TextPiece {
  absl::string_view text;
  int32_t id = -1;
};

// Longest match at the leftmost place, in time linear in the text (times the
// longest token). Immutable: thread-safe.
class AddedTokens {
 public:
  // Tokens with empty texts are left out.
  explicit AddedTokens(const std::vector<AddedToken>& tokens);

  // The pieces point into `text`, are in its order, and are never empty.
  std::vector<TextPiece> Split(absl::string_view text, bool parse_special) const;

 private:
  struct Match {
    size_t end = 0;
    int32_t token = -1;  // index into tokens_
  };
  Match Longest(absl::string_view text, size_t start, bool parse_special) const;

  std::vector<AddedToken> tokens_;
  // A trie: (node << 8 | byte) to the next node, and the token that ends in a node.
  absl::flat_hash_map<uint64_t, uint32_t> next_;
  std::vector<int32_t> ends_;
  std::array<bool, 256> starts_{};
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_ADDED_TOKENS_H_
