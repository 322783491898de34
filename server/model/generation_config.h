#ifndef ATTUNE_SERVER_MODEL_GENERATION_CONFIG_H_
#define ATTUNE_SERVER_MODEL_GENERATION_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

// No torch headers here: gRPC handlers use this file.
namespace attune {

// How a model's makers want tokens chosen, where a request does not say; of Hugging
// Face's generation_config.json. What it says of end tokens the tokenizer reads.
struct GenerationDefaults {
  double temperature = 0;  // 0: greedy
  double top_p = 1;
  int32_t top_k = 0;  // 0: all
  double repetition_penalty = 1;
};

// Of a model's folder; without the file, or where it says nothing, the values above.
// Temperature, top_p and top_k count only if the file sets do_sample. INVALID_ARGUMENT
// (BAD_MODEL) for a value out of its range.
absl::StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_GENERATION_CONFIG_H_
