#ifndef ATTUNE_SERVER_TOKENIZER_TOKENIZER_PARTS_H_
#define ATTUNE_SERVER_TOKENIZER_TOKENIZER_PARTS_H_

#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "server/model/weights/gguf.h"
#include "server/tokenizer/sentencepiece_tokenizer.h"
#include "server/tokenizer/tokenizer_json.h"

namespace attune {

// By what kind of tokenizer it is: byte-level BPE and BPE with byte fallback of a tokenizer.json, SentencePiece.
using TokenizerParts = std::variant<ByteBpeParts, ByteFallbackBpeParts, SentencePieceParts>;

// What the tokenizer of a Hugging Face directory is made of, for whoever writes it in another format. Errors as LoadTokenizer,
// and UNSUPPORTED_TOKENIZER for Tekken.
absl::StatusOr<TokenizerParts> LoadTokenizerParts(const std::string& directory);

// Of a GGUF file of the model "llama": tokens in SentencePiece's form. Added are those of its tokens that take the blanks
// behind them along, as in the file, and with them all that are found like these. Errors as LoadTokenizer.
absl::StatusOr<SentencePieceParts> LoadSentencePieceParts(const GgufFile& file);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_TOKENIZER_PARTS_H_
