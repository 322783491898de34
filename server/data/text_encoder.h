#ifndef ATTUNE_SERVER_DATA_TEXT_ENCODER_H_
#define ATTUNE_SERVER_DATA_TEXT_ENCODER_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// Tokenises a text in pieces. Some tokenizers put a space before whatever they are
// given, which is right at the beginning of a text and wrong inside it; pieces that
// continue a text come without it. Immutable: thread-safe.
class TextEncoder {
 public:
  // `tokenizer` must outlive this.
  explicit TextEncoder(const Tokenizer* tokenizer);

  // Of a piece that begins a text.
  std::vector<int32_t> Begin(absl::string_view piece, bool parse_special) const;
  // Of a piece with text before it.
  std::vector<int32_t> Continue(absl::string_view piece, bool parse_special) const;

  // Whether the text of a special token is part of `text`.
  bool HoldsSpecial(absl::string_view text) const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  int64_t CountSpecial(const std::vector<int32_t>& ids) const;

  const Tokenizer* tokenizer_;
  bool adds_space_;
  std::vector<int32_t> anchor_;  // what Continue puts before a piece, and takes off again
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_TEXT_ENCODER_H_
