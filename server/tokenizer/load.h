#ifndef ATTUNE_SERVER_TOKENIZER_LOAD_H_
#define ATTUNE_SERVER_TOKENIZER_LOAD_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/model/weights/gguf.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// The tokenizer inside a GGUF file: byte-level BPE ("gpt2") or SentencePiece
// ("llama"). INVALID_ARGUMENT (UNSUPPORTED_TOKENIZER) names what is not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file);

// The tokenizer of a Hugging Face directory: tokenizer.json (byte-level BPE, or
// BPE with byte fallback), tekken.json (see tekken.h) or tokenizer.model (SentencePiece), the first of these, with
// tokenizer_config.json, generation_config.json and chat_template.jinja if present.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_LOAD_H_
