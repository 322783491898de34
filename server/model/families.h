#ifndef ATTUNE_SERVER_MODEL_FAMILIES_H_
#define ATTUNE_SERVER_MODEL_FAMILIES_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace attune {

// When a config.json asks for attention over a window of the last tokens.
enum class WindowRule {
  kNever,
  kUnlessNull,    // `sliding_window`; 4096 if the key is absent
  kUnlessAbsent,  // `sliding_window`; none if the key is absent or null
  kIfUsed,        // `sliding_window` where `use_sliding_window` is true, in the layers from `max_window_layers` on
};

// One family of models: what its files are called, which options of the decoder it sets (the fields of
// ModelConfig of the same names), and what its files leave out. A family is one entry of the table in families.cc
// and one reference of tests/interop/families_reference.py.
struct ModelFamily {
  absl::string_view name;               // `model_type` of config.json
  absl::string_view architecture;       // the class by which transformers loads it
  absl::string_view gguf_architecture;  // `general.architecture`; empty if no GGUF file says so
  bool qkv_bias = false;
  bool qk_norm = false;
  // Which keys of config.json may turn on biases: the others are refused.
  bool takes_attention_bias = false, takes_mlp_bias = false;
  // Files keep queries, keys and values as one module, and so gate and up.
  bool fuses_projections = false;
  // Whether it may stretch rotary angles: the others are refused.
  bool scales_rope = true;
  // GGUF keeps the rows of each query and key head in pairs that turn together.
  bool gguf_interleaves_rows = false;
  WindowRule window = WindowRule::kNever;
  // A GGUF file must say what window there is, 0 for none.
  bool gguf_needs_window = false;
  // What transformers takes for keys that a config.json lacks.
  int64_t default_context = 0;
  double default_epsilon = 1e-6;
  int64_t default_kv_heads = 0;  // 0: as many as there are heads
  int64_t default_head_dim = 0;  // 0: the hidden size, divided among the heads
};

// Null if the name, or the GGUF architecture, is not known.
const ModelFamily* FindFamily(absl::string_view name);
const ModelFamily* FindGgufFamily(absl::string_view architecture);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_FAMILIES_H_
