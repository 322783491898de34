#ifndef ATTUNE_SERVER_ADAPTERS_GGUF_KEYS_H_
#define ATTUNE_SERVER_ADAPTERS_GGUF_KEYS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/config.h"

namespace attune {

// The same model as its GGUF file says it: Mistral's files are Llama's. FAILED_PRECONDITION (EXPORT_UNSUPPORTED) for a family of
// which there are no such files.
absl::StatusOr<ModelConfig> GgufConfig(ModelConfig config);

// The encoded keys of a GGUF file that say the shape; not those of the tokenizer and of how numbers are stored.
std::vector<std::string> GgufShapeKeys(const ModelConfig& config);

// What each pair's angle is divided by, by the names of the file's tensors: Llama 3's scaling, and LongRoPE's two. None under any
// other.
std::vector<std::pair<std::string, std::vector<float>>> GgufRopeFactors(const ModelConfig& config);

// FAILED_PRECONDITION (EXPORT_UNSUPPORTED) naming the first field in which the model that a file's keys and tensors say is
// another than the one that was to be written.
absl::Status CheckSameModel(const ModelConfig& written, const ModelConfig& read);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_GGUF_KEYS_H_
