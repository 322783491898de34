#ifndef ATTUNE_SERVER_TOKENIZER_VOCABULARY_TOKENIZER_H_
#define ATTUNE_SERVER_TOKENIZER_VOCABULARY_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/tokenizer/added_tokens.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// Vocabularies and single added tokens beyond these are refused as hostile.
inline constexpr size_t kMaxVocabulary = 1 << 21;
inline constexpr size_t kMaxAddedTokenBytes = 512;

// What a token is for. Values are those of GGUF and SentencePiece.
enum class TokenKind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Vocabulary {
  std::vector<std::string> tokens;  // by id
  std::vector<TokenKind> kinds;     // as long as tokens
  // Found in texts before all else. Their special ones are the control tokens.
  std::vector<AddedToken> added;
};

// UNSUPPORTED_TOKENIZER with a message.
absl::Status UnsupportedTokenizer(absl::string_view what);

// Sizes agree and are within the limits, ids of added tokens are in range.
absl::Status CheckVocabulary(const Vocabulary& vocabulary);

// Puts added tokens into a vocabulary: an id beyond its end extends it (ids between
// stay empty), one that is there must have the same text. UNSUPPORTED_TOKENIZER if not.
absl::Status AddTokens(const std::vector<AddedToken>& added, Vocabulary* vocabulary);

// What a model's files say beside the vocabulary.
struct TokenizerSettings {
  int32_t bos_id = -1, eos_id = -1, unk_id = -1, pad_id = -1;
  std::vector<int32_t> more_end_ids;  // beside eos_id
  bool add_bos = false;
  std::string chat_template;
};

// What all tokenizers share: the vocabulary, added tokens, decoding.
class VocabularyTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> Encode(absl::string_view text, bool parse_special) const final;
  std::string TokenBytes(int32_t id) const final;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const final;
  int vocab_size() const final { return static_cast<int>(bytes_.size()); }
  bool IsSpecial(int32_t id) const final;
  int32_t TokenId(absl::string_view token) const final;

  // Ids out of range become -1. Call before the tokenizer is shared.
  void Configure(const TokenizerSettings& settings);

 protected:
  // REQUIRES: CheckVocabulary(vocabulary). `bytes` is what each token stands for.
  // With `drops_space`, one space at the start of a decoded text is left out.
  VocabularyTokenizer(Vocabulary vocabulary, std::vector<std::string> bytes, bool drops_space);

  // Appends the ids of a text without added tokens; `first` if it starts the
  // whole text. Never empty.
  virtual void EncodeText(absl::string_view text, bool first, std::vector<int32_t>* ids) const = 0;

 private:
  absl::flat_hash_map<std::string, int32_t> index_;
  std::vector<TokenKind> kinds_;
  std::vector<std::string> bytes_;
  AddedTokens added_;
  bool drops_space_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_VOCABULARY_TOKENIZER_H_
