#ifndef ATTUNE_SERVER_ADAPTERS_GGUF_KEYS_H_
#define ATTUNE_SERVER_ADAPTERS_GGUF_KEYS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/config.h"

namespace attune {

// The same model as its GGUF file says it: Mistral's files are Llama's. FAILED_PRECONDITION (EXPORT_UNSUPPORTED) for a scaling
// of rotary angles that no key says.
absl::StatusOr<ModelConfig> GgufConfig(ModelConfig config);

// The encoded keys of a GGUF file that say the shape; not those of the tokenizer and of how numbers are stored.
std::vector<std::string> GgufShapeKeys(const ModelConfig& config);

// What each pair's angle is divided by, under Llama 3's scaling: the tensor rope_freqs.weight. Empty under any other.
std::vector<float> GgufRopeFactors(const ModelConfig& config);

// FAILED_PRECONDITION (EXPORT_UNSUPPORTED) naming the first field in which the model that a file's keys and tensors say is
// another than the one that was to be written.
absl::Status CheckSameModel(const ModelConfig& written, const ModelConfig& read);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_GGUF_KEYS_H_
