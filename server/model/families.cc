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
    // Phi-3 and Phi-4.
    {.name = "phi3",
     .architecture = "Phi3ForCausalLM",
     .gguf_architecture = "phi3",
     .fuses_projections = true,
     .scales_rope = false,
     .takes_long_rope = true,
     .window = WindowRule::kUnlessAbsent,
     .gguf_needs_window = true,
     .default_context = 4096,
     .default_original_context = 4096,
     .default_epsilon = 1e-5},
    // The text models of Gemma 3: 270M and 1B, and larger ones without their images.
    {.name = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .gguf_architecture = "gemma3",
     .qk_norm = true,
     .post_norms = true,
     .norm_offset = 1,
     .scales_embeddings = true,
     .activation = Activation::kGeluTanh,
     .window = WindowRule::kPattern,
     .window_pattern = 6,
     .gguf_needs_window = true,
     .gguf_wide_queries_layers = 62,
     .default_context = 131072,
     .default_kv_heads = 4,
     .default_head_dim = 256,
     .default_tied_head = true,
     .default_rope_theta = 1e6,
     .default_local_rope_theta = 1e4,
     .default_query_scalar = 256,
     .takes_softcaps = true},
    {.name = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .gguf_architecture = "gemma2",
     .post_norms = true,
     .norm_offset = 1,
     .scales_embeddings = true,
     .activation = Activation::kGeluTanh,
     .scales_rope = false,
     .window = WindowRule::kPattern,
     .window_pattern = 2,
     .gguf_needs_window = true,
     .gguf_wide_queries_layers = 46,
     .default_context = 8192,
     .default_kv_heads = 4,
     .default_head_dim = 256,
     .default_tied_head = true,
     .default_query_scalar = 256,
     .takes_softcaps = true,
     .takes_attention_softcap = true,
     .default_attention_softcap = 50,
     .default_logit_softcap = 30},
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
