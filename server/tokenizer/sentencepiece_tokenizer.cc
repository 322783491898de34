#include "server/tokenizer/sentencepiece_tokenizer.h"

#include <utility>

#include "common/error.h"
#include "server/tokenizer/byte_fallback_bpe.h"

namespace attune {
namespace {

class SentencePieceTokenizer : public VocabularyTokenizer {
 public:
  SentencePieceTokenizer(Vocabulary vocabulary, std::vector<std::string> bytes,
                         std::unique_ptr<SentencePieceBridge> model)
      : VocabularyTokenizer(std::move(vocabulary), std::move(bytes), model->add_space_prefix()),
        model_(std::move(model)) {}

 protected:
  void EncodeText(absl::string_view text, bool first, std::vector<int32_t>* ids) const override {
    std::vector<int> encoded;
    model_->Encode(text.data(), text.size(), &encoded);
    ids->insert(ids->end(), encoded.begin(), encoded.end());
  }

 private:
  const std::unique_ptr<SentencePieceBridge> model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeSentencePiece(std::unique_ptr<SentencePieceBridge> model,
                                                                       const std::vector<AddedToken>& added,
                                                                       TokenizerSettings* settings) {
  Vocabulary vocabulary;
  for (const SentencePieceToken& token : model->tokens()) {
    const auto kind = static_cast<TokenKind>(token.type);
    const bool special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (special) vocabulary.added.push_back({static_cast<int32_t>(vocabulary.tokens.size()), token.text, true});
    vocabulary.tokens.push_back(token.text);
    vocabulary.kinds.push_back(kind);
  }
  ATTUNE_RETURN_IF_ERROR(AddTokens(added, &vocabulary));
  ATTUNE_RETURN_IF_ERROR(CheckVocabulary(vocabulary));
  const auto fill = [](int32_t own, int32_t* id) { *id = *id >= 0 ? *id : own; };
  fill(model->bos_id(), &settings->bos_id);
  fill(model->eos_id(), &settings->eos_id);
  fill(model->unk_id(), &settings->unk_id);
  fill(model->pad_id(), &settings->pad_id);
  std::vector<std::string> bytes = BytesOfMarkedTokens(vocabulary);
  return std::make_unique<SentencePieceTokenizer>(std::move(vocabulary), std::move(bytes), std::move(model));
}

}  // namespace attune
