#include <ATen/ATen.h>

#include <memory>

#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {
namespace {

// Keys of one prefix, rotated to their tokens' positions, 0 and on, or back. keys_LNK fp32.
at::Tensor Rotated(const at::Tensor& keys_LNK, const ModelConfig& config, const RopeTable& rope, bool back) {
  const int64_t tokens = keys_LNK.size(1), half = config.head_dim / 2;
  const auto factors = [&](const at::Tensor& table_PH) { return table_PH.narrow(0, 0, tokens).view({tokens, 1, half}); };
  at::Tensor cos = factors(rope.cos_PH), sin = factors(rope.sin_PH);
  if (back) {
    // The table may also scale.
    const at::Tensor square = cos * cos + sin * sin;
    cos = cos / square;
    sin = -sin / square;
  }
  const at::Tensor heads = keys_LNK.unflatten(2, {config.kv_heads, config.head_dim});
  const at::Tensor first = heads.narrow(3, 0, half), second = heads.narrow(3, half, half);
  return at::cat({first * cos - second * sin, second * cos + first * sin}, 3).flatten(2, 3);
}

// The tensor with its keys turned, each layer's by its own angles.
at::Tensor Turned(const at::Tensor& keys_values_LNE, const ModelConfig& config, const RopeTables& rope, bool back) {
  const std::vector<at::Tensor> parts = keys_values_LNE.to(at::kFloat).chunk(2, 2);
  std::vector<at::Tensor> keys;
  for (int64_t i = 0; i < config.layers; ++i) {
    keys.push_back(Rotated(parts[0].narrow(0, i, 1), config, rope.Of(config, i), back));
  }
  return at::cat({at::cat(keys), parts[1]}, 2);
}

}  // namespace

absl::Status LoadPrefix(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  ATTUNE_RETURN_IF_ERROR(CheckVirtualTokens(peft, config.kv_size(), config));
  auto prefix = std::make_unique<Prefix>();
  ATTUNE_ASSIGN_OR_RETURN(prefix->keys_values_LNE,
                          reader->Take(kPromptTensor, {peft.virtual_tokens, config.layers * 2 * config.kv_size()}));
  adapter->prefix = std::move(prefix);
  return absl::OkStatus();
}

void TurnBackPrefix(const ModelConfig& config, const RopeTables& rope, Prefix* prefix) {
  at::Tensor& kept = prefix->keys_values_LNE;
  const at::Tensor by_layer = kept.unflatten(1, {config.layers, 2 * config.kv_size()}).transpose(0, 1);
  kept = Turned(by_layer, config, rope, /*back=*/true).to(kept.scalar_type()).contiguous();
}

nlohmann::ordered_json SavePrefix(const Prefix& prefix, const ModelConfig& config, const RopeTables& rope,
                                  TensorWriter* writer) {
  const at::Tensor turned = Turned(prefix.keys_values_LNE.detach(), config, rope, /*back=*/false);
  writer->Add(kPromptTensor, turned.transpose(0, 1).flatten(1, 2));
  return {{"peft_type", "PREFIX_TUNING"},
          {"num_virtual_tokens", turned.size(1)},
          {"token_dim", config.kv_size()},
          {"num_transformer_submodules", 1},
          {"num_attention_heads", config.kv_heads},
          {"num_layers", config.layers},
          {"encoder_hidden_size", config.kv_size()},
          {"prefix_projection", false}};
}

}  // namespace attune
