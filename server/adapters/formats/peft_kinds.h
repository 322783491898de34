#ifndef ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_KINDS_H_
#define ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_KINDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "server/adapters/adapter.h"
#include "server/adapters/formats/peft_config.h"
#include "server/adapters/formats/peft_tensors.h"
#include "server/model/file_modules.h"
#include "server/model/rope.h"

// The kinds of adapters in PEFT's format, for peft.cc alone. Each Load takes its tensors into `adapter`; each
// Save adds them to `writer` and returns its part of adapter_config.json. PEFT's modules are the family's: where its
// files fuse projections, one LoRA or scale is theirs together.
namespace attune {

inline constexpr char kPeftPrefix[] = "base_model.model.";
inline constexpr char kPromptTensor[] = "prompt_embeddings";

// "model.layers.0.self_attn.q_proj".
std::string PeftModuleName(int64_t layer, const FileModule& module);

// Errors of an adapter's virtual tokens that the base model does not fit.
absl::Status CheckVirtualTokens(const PeftConfig& peft, int64_t token_dim, const ModelConfig& config);

absl::Status LoadLora(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter);
nlohmann::ordered_json SaveLora(const LoraAdapter& lora, const ModelConfig& config, TensorWriter* writer);

// The part of LoadLora and SaveLora that is outside the layers: embedding and head, adapted or whole. The tables that PEFT
// writes beneath a LoRA on them become whole ones, also of a tied model's other user; a tied head and embedding that are to
// stay so (ensure_weight_tying) are one tensor. SaveVocabulary returns what belongs into modules_to_save.
absl::Status LoadVocabulary(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, LoraAdapter* lora);
std::vector<std::string> SaveVocabulary(const LoraAdapter& lora, TensorWriter* writer);

absl::Status LoadSoftPrompt(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter);
nlohmann::ordered_json SaveSoftPrompt(const SoftPrompt& prompt, const ModelConfig& config, const std::string& base,
                                      TensorWriter* writer);

absl::Status LoadIa3(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter);
nlohmann::ordered_json SaveIa3(const Ia3Adapter& ia3, const ModelConfig& config, TensorWriter* writer);

// In the file keys are as the cache holds them: rotated by the base model's `rope`. A prefix as it was read is
// turned into what Prefix holds once its values are there.
absl::Status LoadPrefix(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter);
void TurnBackPrefix(const ModelConfig& config, const RopeTables& rope, Prefix* prefix);
nlohmann::ordered_json SavePrefix(const Prefix& prefix, const ModelConfig& config, const RopeTables& rope,
                                  TensorWriter* writer);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_KINDS_H_
