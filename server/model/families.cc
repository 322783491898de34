#include "server/model/families.h"

namespace attune {
namespace {

constexpr ModelFamily kFamilies[] = {
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .gguf_architecture = "llama",
     .gguf_interleaves_rows = true,
     .default_context = 2048},
    // Its GGUF files say "llama".
    {.name = "mistral",
     .architecture = "MistralForCausalLM",
     .window = WindowRule::kUnlessNull,
     .default_context = 4096 * 32,
     .default_kv_heads = 8},
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
