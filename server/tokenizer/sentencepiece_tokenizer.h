#ifndef ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
#define ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/sentencepiece_bridge.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

// What a SentencePiece model and the tokens added to it are. Scores are by id; added tokens beyond the model have 0.
struct SentencePieceParts {
  Vocabulary vocabulary;
  std::vector<float> scores;
  bool is_unigram = false;  // else BPE
  bool add_space_prefix = true, removes_extra_spaces = false;
};
absl::StatusOr<SentencePieceParts> SentencePiecePartsOf(const SentencePieceBridge& model,
                                                        const std::vector<AddedToken>& added);

// The tokens of such parts, as the library's models have them.
std::vector<SentencePieceToken> SentencePieceTokens(const SentencePieceParts& parts);

// SentencePiece's own library behind the Tokenizer interface. Control tokens of
// the model and `added` are found first; each stretch of text between them is
// encoded by itself. Added ids beyond the model extend the vocabulary. On
// return `settings` has the model's own ids where it had none. `found_first` are tokens of the model that are found like added
// ones, in place of how the model itself would find them.
absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeSentencePiece(std::unique_ptr<SentencePieceBridge> model,
                                                                       const std::vector<AddedToken>& added,
                                                                       TokenizerSettings* settings,
                                                                       const std::vector<AddedToken>& found_first = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
