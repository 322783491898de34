#ifndef ATTUNE_SERVER_ADAPTERS_TOKENIZER_FILES_H_
#define ATTUNE_SERVER_ADAPTERS_TOKENIZER_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/weights/gguf.h"

namespace attune {

// The text of a tokenizer.json that gives the same ids as the vocabulary of a GGUF
// file. FAILED_PRECONDITION (EXPORT_UNSUPPORTED) unless it is byte-level BPE or SentencePiece's.
absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufFile& file);

// Puts a base model's tokenizer files into the folder `to`: those of the Hugging Face
// folder `from`, or made from its model.gguf: then SentencePiece's come as tokenizer.model, too, and what would be read as another
// tokenizer than the file's is refused (EXPORT_UNSUPPORTED).
absl::Status WriteTokenizerFiles(const std::string& from, const std::string& to);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_TOKENIZER_FILES_H_
