#ifndef ATTUNE_SERVER_MODEL_CONFIG_H_
#define ATTUNE_SERVER_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model/kernels/activation.h"
#include "server/model/rope_scaling.h"
#include "server/model/weights/gguf.h"

namespace attune {

// A decoder's shape. One decoder serves every family: see families.h for what each sets, and what its files
// call these fields.
struct ModelConfig {
  std::string family;  // its name in families.h
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;
  double rms_epsilon = 1e-5;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_head = false;  // the head is the embedding table
  // What some families do beside Llama's layers.
  bool qkv_bias = false;     // biases of queries, keys and values,
  bool output_bias = false;  // of attention's output,
  bool mlp_bias = false;     // and of the feed-forward part's three projections
  bool qk_norm = false;      // each head's query and key get an RMS norm before they are rotated
  bool post_norms = false;   // attention's output and the feed-forward part's get one before they are added
  double norm_offset = 0;    // Hugging Face files hold the norms' weights less this; in memory they are whole
  bool scales_embeddings = false;  // by the root of the hidden size, rounded to the table's type
  Activation activation = Activation::kSilu;
  // By layer, how many tokens one sees, itself among them; 0: all before it. Empty if no layer has a window.
  std::vector<int64_t> windows;
  double local_rope_theta = 0;  // of layers with a window, without scaling; 0: as the others
  double query_scalar = 0;      // scores are divided by its root; 0: by that of head_dim
  // c: attention's scores, or logits, become c tanh(x / c); 0: they stay.
  double attention_softcap = 0, logit_softcap = 0;

  int64_t Window(int64_t layer) const { return windows.empty() ? 0 : windows[layer]; }
  // Whether a layer's rotary angles follow local_rope_theta.
  bool IsLocal(int64_t layer) const { return local_rope_theta > 0 && Window(layer) > 0; }
  // Forgets windows if no layer has one.
  void DropNoWindows();
  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
  // Weights in all, a tied head counted once.
  int64_t Parameters() const;
};

// From a GGUF's metadata. INVALID_ARGUMENT (UNSUPPORTED_MODEL) names the
// architecture, or the feature, that is not supported; (BAD_MODEL) an impossible value.
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

// From the text of a Hugging Face config.json; errors as above.
absl::StatusOr<ModelConfig> ConfigFromJson(const std::string& json);

// The text of a config.json that transformers and ConfigFromJson read. REQUIRES: the family is one of families.h's.
std::string ConfigToJson(const ModelConfig& config, int32_t bos_id, int32_t eos_id);

// cos and sin factors need one angular frequency per pair of dimensions: head_dim / 2
// values, scaling applied.
std::vector<double> RopeFrequencies(const ModelConfig& config);
// Of layers with a window. REQUIRES: local_rope_theta is set.
std::vector<double> LocalRopeFrequencies(const ModelConfig& config);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_CONFIG_H_
