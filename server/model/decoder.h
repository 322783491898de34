#ifndef ATTUNE_SERVER_MODEL_DECODER_H_
#define ATTUNE_SERVER_MODEL_DECODER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "server/model/base_model.h"
#include "server/model/kernels/attention.h"

namespace attune {

// What differs between training and serving inside a decoder layer: how products
// meet adapters, and where attention finds earlier tokens.
class LayerOps {
 public:
  virtual ~LayerOps() = default;
  // x W^T of the layer's product `which`, biases and adapters included. May read x but not change it.
  virtual at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x) = 0;
  // Rotary embedding and attention over the product kQkv, whose heads are normed where the model norms them; may
  // overwrite qkv_TE. A prefix's keys and values are put in its tokens' place here: they are past those norms.
  virtual at::Tensor Attend(int64_t layer, at::Tensor qkv_TE) = 0;
};

// The decoder of every family: pre-norm attention and gated feed-forward blocks with residual connections, and the final norm
// (Touvron et al. 2023), with what `config` says of biases, activation, windows and further norms. x_TD the embedded tokens of
// any number of sequences; returns the normalised hidden states, T x D. Takes part in
// autograd where weights or x require it. Thread-safe as far as `ops` is.
at::Tensor RunDecoder(const ModelConfig& config, const DecoderWeights& weights, at::Tensor x_TD, LayerOps* ops);

// Rows of embedding_VD for ids_T (int64, on its device), scaled as the configuration says, in type `type`. Takes part in
// autograd.
at::Tensor EmbedRows(const ModelConfig& config, const at::Tensor& embedding_VD, const at::Tensor& ids_T, at::ScalarType type);
// What the rows of a table of this type are multiplied by.
double EmbeddingScale(const ModelConfig& config, at::ScalarType type);

// Logits, any type, under the configuration's soft cap.
at::Tensor CapLogits(const ModelConfig& config, const at::Tensor& logits);

// What all layers have in common: not the window.
AttentionShape AttentionShapeOf(const ModelConfig& config);
// A layer's, without a window that all of the context fits into.
AttentionShape AttentionShapeOf(const ModelConfig& config, int64_t layer);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_DECODER_H_
