#ifndef ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_H_
#define ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/adapters/adapter.h"
#include "server/model/compute_target.h"
#include "server/model/config.h"
#include "server/model/rope.h"

// Adapters in the files of Hugging Face's PEFT: adapter_config.json and
// adapter_model.safetensors; LORA, PROMPT_TUNING, P_TUNING's embeddings,
// PREFIX_TUNING and IA3.
namespace attune {

// Loads an adapter of the base model that `config` describes, its tensors in the
// target's type on its device. Every tensor of the file is used and every key that
// changes results is applied; else INVALID_ARGUMENT: (UNSUPPORTED_ADAPTER) names a
// key or module, (BAD_ADAPTER) a tensor that is missing, left over, of another shape
// or not finite, (PICKLE_REFUSED). RESOURCE_EXHAUSTED (OUT_OF_MEMORY). `rope`, the base model's, on the target's
// device, is needed for a prefix alone.
absl::StatusOr<std::unique_ptr<Adapter>> LoadPeft(const std::string& directory, const ModelConfig& config,
                                                  const ComputeTarget& target, const RopeTables& rope = {});

// Writes an adapter into a folder, durably, in the tensors' own type.
// `base_model_name` becomes base_model_name_or_path. `rope` as above: needed for a prefix alone, whose keys PEFT keeps
// rotated.
absl::Status SavePeft(const std::string& directory, const Adapter& adapter, const ModelConfig& config,
                      const std::string& base_model_name, const RopeTables& rope = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_H_
