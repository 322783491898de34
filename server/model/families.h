#ifndef ATTUNE_SERVER_MODEL_FAMILIES_H_
#define ATTUNE_SERVER_MODEL_FAMILIES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "server/model/kernels/activation.h"

namespace attune {

// Which layers of a config.json's model see but a window of the last tokens.
enum class WindowRule {
  kNever,
  kUnlessNull,    // all, unless `sliding_window` is null
  kUnlessAbsent,  // all, if there is a `sliding_window`
  kIfUsed,        // where `use_sliding_window` is true: by `layer_types`, else those from `max_window_layers` on
  kPattern,       // by `layer_types`, else all but each n-th
};
// Of most families, where the key `sliding_window` is absent.
inline constexpr int64_t kDefaultWindow = 4096;

// One family of models: what its files are called, which options of the decoder it sets (the fields of
// ModelConfig of the same names), and what its files leave out. A family is one entry of the table in families.cc
// and one reference of tests/interop/families_reference.py.
struct ModelFamily {
  absl::string_view name;               // `model_type` of config.json
  absl::string_view architecture;       // the class by which transformers loads it
  absl::string_view gguf_architecture;  // `general.architecture`; empty if no GGUF file says so
  bool qkv_bias = false;
  bool qk_norm = false;
  bool post_norms = false;
  double norm_offset = 0;
  bool scales_embeddings = false;
  Activation activation = Activation::kSilu;
  // Which keys of config.json may turn on biases: the others are refused.
  bool takes_attention_bias = false, takes_mlp_bias = false;
  // Files keep queries, keys and values as one module, and so gate and up.
  bool fuses_projections = false;
  // Whether it may stretch rotary angles: the others are refused.
  bool scales_rope = true;
  bool takes_long_rope = false;  // LongRoPE, whatever scales_rope says
  // GGUF keeps the rows of each query and key head in pairs that turn together.
  bool gguf_interleaves_rows = false;
  WindowRule window = WindowRule::kNever;
  int64_t window_pattern = 0;  // kPattern's n
  // A GGUF file must say what window there is, 0 for none.
  bool gguf_needs_window = false;
  // Layers of the largest model of the family whose GGUF files mean hidden size / heads as what scores are scaled by; in all
  // others it is the head dimension. 0: files do not leave it to the reader.
  int64_t gguf_wide_queries_layers = 0;
  // What transformers takes for keys that a config.json lacks.
  int64_t default_context = 0, default_original_context = 0;  // the latter of LongRoPE
  double default_epsilon = 1e-6;
  int64_t default_kv_heads = 0;  // 0: as many as there are heads
  int64_t default_head_dim = 0;  // 0: the hidden size, divided among the heads
  bool default_tied_head = false;
  double default_rope_theta = 10000;
  double default_local_rope_theta = 0;  // 0: layers with a window turn by the others' angles
  int64_t default_query_scalar = 0;     // 0: it has no `query_pre_attn_scalar`
  // `final_logit_softcapping` and `attn_logit_softcapping`, which null turns off; the latter may be refused.
  bool takes_softcaps = false, takes_attention_softcap = false;
  double default_attention_softcap = 0, default_logit_softcap = 0;
};

// Null if the name, or the GGUF architecture, is not known.
const ModelFamily* FindFamily(absl::string_view name);
const ModelFamily* FindGgufFamily(absl::string_view architecture);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_FAMILIES_H_
