#ifndef ATTUNE_SERVER_TOKENIZER_BYTE_BPE_FILES_H_
#define ATTUNE_SERVER_TOKENIZER_BYTE_BPE_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/tokenizer/tokenizer_json.h"

namespace attune {

// What the byte-level BPE of a Hugging Face directory is made of, for whoever writes it in another format.
// UNSUPPORTED_TOKENIZER names what else the directory holds.
absl::StatusOr<ByteBpeParts> LoadByteBpeParts(const std::string& directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_BYTE_BPE_FILES_H_
