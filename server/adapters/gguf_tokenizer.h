#ifndef ATTUNE_SERVER_ADAPTERS_GGUF_TOKENIZER_H_
#define ATTUNE_SERVER_ADAPTERS_GGUF_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// The encoded keys of a GGUF file that say the tokenizer of a Hugging Face folder, `tokenizer` as loaded from there, for a model
// whose table has `vocab` rows: those without a token get unused ones. Byte-level BPE whose way to split text has a name in such
// files, and BPE with byte fallback, of a tokenizer.json or SentencePiece's, that scores can say (see scored_bpe.h).
// FAILED_PRECONDITION (EXPORT_UNSUPPORTED) names what else there is.
absl::StatusOr<std::vector<std::string>> GgufTokenizerKeys(const std::string& directory, const Tokenizer& tokenizer,
                                                           int64_t vocab);

// FAILED_PRECONDITION (EXPORT_UNSUPPORTED) naming the first thing in which the tokenizer that was read is not the one written.
absl::Status CheckSameTokenizer(const Tokenizer& written, const Tokenizer& read);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_GGUF_TOKENIZER_H_
