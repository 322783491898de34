#ifndef ATTUNE_SERVER_ADAPTERS_ADAPTER_H_
#define ATTUNE_SERVER_ADAPTERS_ADAPTER_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/model/base_model.h"

namespace attune {

// LoRA on one projection: y += scale * (x A^T) B^T. Hu et al. 2021. With DoRA (Liu et al. 2024) what y is without its bias
// is then multiplied, output by output, by magnitude / |W + scale * B A|: see dora.h.
struct LoraModule {
  at::Tensor a_RI;  // undefined where the projection is not adapted
  at::Tensor b_OR;
  double scale = 0;  // alpha / r, or alpha / sqrt(r) with rsLoRA
  at::Tensor magnitude_O;     // DoRA's; undefined without
  at::Tensor output_scale_O;  // what that comes to over the base model's weights; undefined while it trains
  bool defined() const { return a_RI.defined(); }
  // The same in int8, as cuda::LoraCodes: see lora_codes.h; undefined without.
  struct Codes {
    at::Tensor a_RI, b_OR;  // int8; B's rows are filled up with zeros
    at::Tensor scale_R;     // fp32
    bool defined() const { return a_RI.defined(); }
  } codes;
};

struct LoraAdapter {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;  // while training
  bool use_rslora = false;
  bool use_dora = false;  // all modules have magnitudes
  bool has_codes = false;  // the layers' modules have
  // [layer][projection]
  std::vector<std::array<LoraModule, kProjections>> layers;

  // What stands before the layers and behind them; undefined where it is the base model's. A tied head that is not named
  // here stays the base model's table, whatever becomes of the embedding: so PEFT does it. Never with magnitudes.
  LoraModule embedding;       // A is RV and B is DR: token v's row has scale * B A[:, v] more
  LoraModule head;            // A is RD and B is VR
  at::Tensor embedding_VD, head_VD;  // whole tables in place of the base model's: PEFT's modules_to_save
  bool changes_embedding() const { return embedding.defined() || embedding_VD.defined(); }
  bool changes_head() const { return head.defined() || head_VD.defined(); }
};

// Trained embeddings that come before the input's. Lester et al. 2021.
struct SoftPrompt {
  at::Tensor embeddings_ND;
  std::string init_text;
};

// Trained keys and values that every layer sees before the input's. Li and Liang 2021.
struct Prefix {
  // Layer, virtual token, columns: keys, then values, as the product kQkv gives them: keys
  // before they are rotated to the token's position.
  at::Tensor keys_values_LNE;
};

// Trained scales of activations. Liu et al. 2022.
struct Ia3Adapter {
  struct Layer {
    // By projection, [its rows]: of its outputs; undefined where not adapted.
    std::array<at::Tensor, kProjections> output;
    at::Tensor inner_I;                           // of down_proj's inputs; undefined where not adapted
  };
  std::vector<Layer> layers;
};

// What a base model plus a small artifact needs beyond the base: exactly one of
// these. Tensors have the base's type and device, except while training (fp32 leaves).
// Immutable when shared: thread-safe.
struct Adapter {
  std::unique_ptr<LoraAdapter> lora;
  std::unique_ptr<SoftPrompt> soft_prompt;
  std::unique_ptr<Prefix> prefix;
  std::unique_ptr<Ia3Adapter> ia3;
  int64_t bytes = 0;
  // Whether embedding or head are its own.
  bool changes_vocabulary() const { return lora && (lora->changes_embedding() || lora->changes_head()); }
  // Tokens of a sequence that stand before its input.
  int64_t virtual_tokens() const {
    return soft_prompt ? soft_prompt->embeddings_ND.size(0) : prefix ? prefix->keys_values_LNE.size(1) : 0;
  }
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_ADAPTER_H_
