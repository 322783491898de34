#ifndef ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
#define ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/sentencepiece_bridge.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

// SentencePiece's own library behind the Tokenizer interface. Control tokens of
// the model and `added` are found first; each stretch of text between them is
// encoded by itself. Added ids beyond the model extend the vocabulary. On
// return `settings` has the model's own ids where it had none.
absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeSentencePiece(std::unique_ptr<SentencePieceBridge> model,
                                                                       const std::vector<AddedToken>& added,
                                                                       TokenizerSettings* settings);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
