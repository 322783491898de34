#include "server/model/families.h"

namespace attune {
namespace {

constexpr ModelFamily kFamilies[] = {
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .gguf_architecture = "llama",
     .takes_attention_bias = true,
     .takes_mlp_bias = true,
     .gguf_interleaves_rows = true,
     .default_context = 2048},
    // Its GGUF files say "llama".
    {.name = "mistral",
     .architecture = "MistralForCausalLM",
     .window = WindowRule::kUnlessNull,
     .default_context = 4096 * 32,
     .default_kv_heads = 8},
    // Qwen2 and Qwen2.5.
    {.name = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .gguf_architecture = "qwen2",
     .qkv_bias = true,
     .window = WindowRule::kIfUsed,
     .default_context = 32768,
     .default_kv_heads = 32},
    {.name = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .gguf_architecture = "qwen3",
     .qk_norm = true,
     .takes_attention_bias = true,
     .window = WindowRule::kIfUsed,
     .default_context = 32768,
     .default_kv_heads = 32,
     .default_head_dim = 128},
    // Phi-3 and Phi-4 without LongRoPE, which alone transformers gives the family.
    {.name = "phi3",
     .architecture = "Phi3ForCausalLM",
     .gguf_architecture = "phi3",
     .fuses_projections = true,
     .scales_rope = false,
     .window = WindowRule::kUnlessAbsent,
     .gguf_needs_window = true,
     .default_context = 4096,
     .default_epsilon = 1e-5},
};

}  // namespace

const ModelFamily* FindFamily(absl::string_view name) {
  for (const ModelFamily& family : kFamilies) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

const ModelFamily* FindGgufFamily(absl::string_view architecture) {
  for (const ModelFamily& family : kFamilies) {
    if (!architecture.empty() && family.gguf_architecture == architecture) return &family;
  }
  return nullptr;
}

}  // namespace attune
