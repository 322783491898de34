#ifndef ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_H_
#define ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/adapters/adapter.h"
#include "server/model/compute_target.h"
#include "server/model/config.h"

// Adapters in the files of Hugging Face's PEFT: adapter_config.json and
// adapter_model.safetensors; LORA, PROMPT_TUNING and P_TUNING's embeddings.
namespace attune {

// Loads an adapter of the base model that `config` describes, its tensors in the
// target's type on its device. Every tensor of the file is used and every key that
// changes results is applied; else INVALID_ARGUMENT: (UNSUPPORTED_ADAPTER) names a
// key or module, (BAD_ADAPTER) a tensor that is missing, left over, of another shape
// or not finite, (PICKLE_REFUSED). RESOURCE_EXHAUSTED (OUT_OF_MEMORY).
absl::StatusOr<std::unique_ptr<Adapter>> LoadPeft(const std::string& directory, const ModelConfig& config,
                                                  const ComputeTarget& target);

// Writes an adapter into a folder, durably, in the tensors' own type.
// `base_model_name` becomes base_model_name_or_path.
absl::Status SavePeft(const std::string& directory, const Adapter& adapter, const ModelConfig& config,
                      const std::string& base_model_name);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_H_
