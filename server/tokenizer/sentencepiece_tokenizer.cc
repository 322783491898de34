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

// The model's tokens, the special ones of which are found in texts, and those added to them.
absl::StatusOr<Vocabulary> VocabularyOf(const SentencePieceBridge& model, const std::vector<AddedToken>& added) {
  Vocabulary vocabulary;
  for (const SentencePieceToken& token : model.tokens()) {
    const auto kind = static_cast<TokenKind>(token.type);
    const bool special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (special) vocabulary.added.push_back({static_cast<int32_t>(vocabulary.tokens.size()), token.text, true});
    vocabulary.tokens.push_back(token.text);
    vocabulary.kinds.push_back(kind);
  }
  ATTUNE_RETURN_IF_ERROR(AddTokens(added, &vocabulary));
  ATTUNE_RETURN_IF_ERROR(CheckVocabulary(vocabulary));
  return vocabulary;
}

}  // namespace

absl::StatusOr<SentencePieceParts> SentencePiecePartsOf(const SentencePieceBridge& model,
                                                        const std::vector<AddedToken>& added) {
  SentencePieceParts parts;
  ATTUNE_ASSIGN_OR_RETURN(parts.vocabulary, VocabularyOf(model, added));
  for (const SentencePieceToken& token : model.tokens()) parts.scores.push_back(token.score);
  parts.scores.resize(parts.vocabulary.tokens.size(), 0);
  parts.is_unigram = model.is_unigram();
  parts.add_space_prefix = model.add_space_prefix();
  parts.removes_extra_spaces = model.removes_extra_spaces();
  return parts;
}

std::vector<SentencePieceToken> SentencePieceTokens(const SentencePieceParts& parts) {
  std::vector<SentencePieceToken> tokens;
  for (size_t id = 0; id < parts.vocabulary.tokens.size(); ++id) {
    tokens.push_back({parts.vocabulary.tokens[id], parts.scores[id], static_cast<int>(parts.vocabulary.kinds[id])});
  }
  return tokens;
}

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeSentencePiece(std::unique_ptr<SentencePieceBridge> model,
                                                                       const std::vector<AddedToken>& added,
                                                                       TokenizerSettings* settings,
                                                                       const std::vector<AddedToken>& found_first) {
  ATTUNE_ASSIGN_OR_RETURN(Vocabulary vocabulary, VocabularyOf(*model, added));
  // Of two with the same text the later one counts.
  vocabulary.added.insert(vocabulary.added.end(), found_first.begin(), found_first.end());
  const auto fill = [](int32_t own, int32_t* id) { *id = *id >= 0 ? *id : own; };
  fill(model->bos_id(), &settings->bos_id);
  fill(model->eos_id(), &settings->eos_id);
  fill(model->unk_id(), &settings->unk_id);
  fill(model->pad_id(), &settings->pad_id);
  std::vector<std::string> bytes = BytesOfMarkedTokens(vocabulary);
  return std::make_unique<SentencePieceTokenizer>(std::move(vocabulary), std::move(bytes), std::move(model));
}

}  // namespace attune
