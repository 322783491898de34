#include "server/tokenizer/byte_bpe.h"

#include <array>
#include <utility>

#include "common/error.h"
#include "server/tokenizer/byte_alphabet.h"
#include "server/tokenizer/nfc.h"
#include "server/tokenizer/pretokenizer.h"

namespace attune {
namespace {

// What a token stands for: added tokens are written plainly, others in the byte alphabet.
std::vector<std::string> BytesOfTokens(const Vocabulary& vocabulary) {
  std::vector<std::string> bytes(vocabulary.tokens.size());
  for (size_t id = 0; id < bytes.size(); ++id) {
    const TokenKind kind = vocabulary.kinds[id];
    const bool plain = kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
    if (plain || !BytesOfByteAlphabet(vocabulary.tokens[id], &bytes[id])) bytes[id] = vocabulary.tokens[id];
  }
  return bytes;
}

// Empty for the others.
std::vector<std::string> OnlyNormal(const Vocabulary& vocabulary, const std::vector<std::string>& bytes) {
  std::vector<std::string> normal(bytes.size());
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (vocabulary.kinds[id] == TokenKind::kNormal) normal[id] = bytes[id];
  }
  return normal;
}

class ByteBpe : public VocabularyTokenizer {
 public:
  ByteBpe(Vocabulary vocabulary, std::vector<std::string> bytes, BpeMerger merger, Pretokenizer pretokenizer,
          const ByteBpeOptions& options)
      : VocabularyTokenizer(std::move(vocabulary), std::move(bytes), /*drops_space=*/false),
        options_(options),
        merger_(std::move(merger)),
        pretokenizer_(std::move(pretokenizer)) {
    for (int byte = 0; byte < 256; ++byte) symbols_[byte] = TokenId(ByteAlphabetChar(byte));
  }

 protected:
  void EncodeText(absl::string_view text, bool first, std::vector<int32_t>* ids) const override {
    std::string normalized, prefixed;
    if (options_.normalizes) {
      normalized = ToNfc(text);
      text = normalized;
    }
    if (options_.add_prefix_space && text[0] != ' ') {
      prefixed = " " + std::string(text);
      text = prefixed;
    }
    std::vector<int32_t> symbols;
    for (const absl::string_view word : pretokenizer_.Split(text)) {
      if (options_.ignore_merges) {
        const int32_t whole = WholeWord(word);
        if (whole >= 0) {
          ids->push_back(whole);
          continue;
        }
      }
      symbols.clear();
      for (const char c : word) {
        const int32_t symbol = symbols_[static_cast<uint8_t>(c)];
        if (symbol >= 0 || options_.unk_id >= 0) symbols.push_back(symbol >= 0 ? symbol : options_.unk_id);
      }
      merger_.Apply(&symbols);
      ids->insert(ids->end(), symbols.begin(), symbols.end());
    }
  }

 private:
  int32_t WholeWord(absl::string_view word) const {
    std::string token;
    for (const char c : word) token += ByteAlphabetChar(static_cast<uint8_t>(c));
    return TokenId(token);
  }

  const ByteBpeOptions options_;
  const BpeMerger merger_;
  const Pretokenizer pretokenizer_;
  std::array<int32_t, 256> symbols_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeByteBpe(Vocabulary vocabulary, const BpeMerges& merges,
                                                                 const ByteBpeOptions& options) {
  ATTUNE_RETURN_IF_ERROR(CheckVocabulary(vocabulary));
  std::vector<std::string> bytes = BytesOfTokens(vocabulary);
  absl::StatusOr<BpeMerger> merger = options.merges_by_rank ? BpeMerger::OfRankedTokens(OnlyNormal(vocabulary, bytes))
                                                            : BpeMerger::Create(vocabulary.tokens, merges);
  if (!merger.ok()) return merger.status();
  ATTUNE_ASSIGN_OR_RETURN(Pretokenizer pretokenizer, Pretokenizer::Create(options.patterns));
  return std::make_unique<ByteBpe>(std::move(vocabulary), std::move(bytes), *std::move(merger), std::move(pretokenizer),
                                   options);
}

}  // namespace attune
