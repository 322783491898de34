#include <memory>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {

absl::Status CheckVirtualTokens(const PeftConfig& peft, int64_t token_dim, const ModelConfig& config) {
  if (peft.token_dim != 0 && peft.token_dim != token_dim) {
    return BadAdapter(absl::StrCat("token_dim is ", peft.token_dim, " where the base model's is ", token_dim));
  }
  if (peft.virtual_tokens < config.context) return absl::OkStatus();
  return BadAdapter("its virtual tokens fill the base model's whole context");
}

absl::Status LoadSoftPrompt(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  ATTUNE_RETURN_IF_ERROR(CheckVirtualTokens(peft, config.hidden, config));
  auto prompt = std::make_unique<SoftPrompt>();
  prompt->init_text = peft.init_text;
  ATTUNE_ASSIGN_OR_RETURN(prompt->embeddings_ND, reader->Take(kPromptTensor, {peft.virtual_tokens, config.hidden}));
  adapter->soft_prompt = std::move(prompt);
  return absl::OkStatus();
}

nlohmann::ordered_json SaveSoftPrompt(const SoftPrompt& prompt, const ModelConfig& config, const std::string& base,
                                      TensorWriter* writer) {
  writer->Add(kPromptTensor, prompt.embeddings_ND);
  nlohmann::ordered_json json = {{"peft_type", "PROMPT_TUNING"},
                                 {"num_virtual_tokens", prompt.embeddings_ND.size(0)},
                                 {"token_dim", config.hidden},
                                 {"num_transformer_submodules", 1},
                                 {"num_attention_heads", config.heads},
                                 {"num_layers", config.layers},
                                 {"prompt_tuning_init", prompt.init_text.empty() ? "RANDOM" : "TEXT"}};
  if (!prompt.init_text.empty()) {
    json["prompt_tuning_init_text"] = prompt.init_text;
    json["tokenizer_name_or_path"] = base;  // PEFT wants one with a text
  }
  return json;
}

}  // namespace attune
