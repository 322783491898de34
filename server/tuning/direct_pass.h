#ifndef ATTUNE_SERVER_TUNING_DIRECT_PASS_H_
#define ATTUNE_SERVER_TUNING_DIRECT_PASS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "server/model/rope.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/host_store.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/pass_batch.h"
#include "server/tuning/pass_loss.h"
#include "server/tuning/pass_products.h"
#include "server/tuning/pass_vocabulary.h"

namespace attune {

// What a layer keeps from its forward for its backward pass; what it does not keep is
// computed again.
enum class Keep {
  kAll,
  kNoCheap,     // not what element-wise kernels make: both normed inputs, the gated unit's output
  kNoGateUp,    // nor the widest product's output
  kInput,       // the layer's input alone (Chen et al. 2016); the feed-forward part runs in chunks of rows
  kInputWhole,  // the same, but never in chunks: bit for bit what a pass that keeps more gives
  kHost,        // nothing on the device: the input waits in host memory
};

// The cheapest choice for each layer whose bytes fit into `budget`; if none does, all
// kHost, or kInput where the device's memory is the host's (`has_host` false). `tokens` of
// one pass, `element` bytes a value. The first layers give up first,
// and every layer the kind that is cheapest to compute again before any gives up the next.
std::vector<Keep> ChooseKeep(const ModelConfig& config, int64_t tokens, int64_t element, int64_t budget,
                             bool has_host = true);
// Bytes that a layer keeps for each token.
int64_t KeptBytesPerToken(const ModelConfig& config, Keep keep, int64_t element);

// Forward and backward pass of a packed micro-batch, differentiated by hand: no graph
// is built, frozen weights get no gradient, layers below all that trains keep nothing, and
// gradients add up in the flat fp32 buffer as the products make them. The same numbers as
// PackedOps under autograd, to rounding. Launches only, on a GPU: it may be captured.
// Throws what libtorch throws: to be run inside CatchTorch. Not thread-safe.
class DirectPass {
 public:
  // Rows of a feed-forward part at a time in layers that keep their input alone.
  static constexpr int64_t kFeedForwardRows = 8192;

  // All arguments must outlive this. `type` is what the pass computes in. Noise is not for joint batches.
  DirectPass(const BaseModel* base, const Method* method, const FlatParameters* parameters, at::ScalarType type,
             double dropout, const PassOptions& options = {});
  ~DirectPass();

  using Result = PassResult;
  // Puts the gradients of loss_sum / loss_tokens into the flat buffer: adds them, or, on the
  // first pass of a step, replaces what is there. `keep` has an entry a layer.
  Result Run(PassBatch batch, const std::vector<Keep>& keep, bool is_first);
  // Called wherever a pass may be held up for a while: after each layer, forward and backward, and
  // each chunk of the head's rows. Not within captures: see PassGraphs.
  void SetPause(std::function<void()> pause) { pause_ = std::move(pause); }
  // Forward only, without dropout, noise and gradients.
  Result Evaluate(PassBatch batch);
  // Likewise, -log p of each loss row's target, fp32, on the device; 0 of padding.
  at::Tensor Losses(PassBatch batch);

 private:
  struct LayerState;
  // A norm's weight in the pass's type, and where its gradient adds up, if it trains.
  struct Norm {
    at::Tensor weight_D, gradient_D;
    at::Tensor leaf;  // that which trains, where the weight is the configuration's norm_offset more
  };
  // What a part of the layer adds, before its norm, where it has one.
  struct PostNormState {
    at::Tensor product_TD, inverse_rms;
  };

  Norm MakeNorm(const at::Tensor& weight_D, const at::Tensor& leaf) const;
  // Every layer's norms of one kind; empty if the model has none such.
  using Norms = std::vector<Norm>;
  // Takes over weights that trained since.
  void RefreshNorms();
  // The norm of a product that is to be added to the residual stream, and the gradient of the product: both nothing but
  // what they are given without such norms.
  at::Tensor PostNorm(const Norms& norms, int64_t layer, const at::Tensor& product, PostNormState* state) const;
  at::Tensor PostNormBackward(const Norms& norms, int64_t layer, const at::Tensor& dy, const PostNormState& state) const;
  at::Tensor NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& inverse_rms,
                          const at::Tensor& residual) const;
  int64_t LowestLayer() const;
  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x, LayerState* state);
  at::Tensor MultiplyBackward(int64_t layer, Linear which, const at::Tensor& dy, const at::Tensor& x,
                              LayerState* state, bool needs_dx);
  // The embedded tokens, under noise if it `trains`, with everything ready for the layers.
  at::Tensor Begin(PassBatch* batch, bool replaces, bool trains);
  bool InChunks(const LayerState& state) const;
  // Norms of queries and keys, where the model has them: in place, and from the gradients of what they made.
  void NormHeads(int64_t layer, const at::Tensor& qkv_TE, LayerState* state) const;
  void NormHeadsBackward(int64_t layer, const at::Tensor& dqkv_TE, const LayerState& state) const;
  // Puts a prefix's keys and values where the layer computed some for its tokens.
  void PlacePrefix(int64_t layer, const PassBatch& batch, const at::Tensor& qkv_TE) const;
  // Takes their gradients out of the product's.
  void PrefixBackward(int64_t layer, const PassBatch& batch, const at::Tensor& dqkv_TE) const;
  // Attention and its output product: x2's second addend.
  at::Tensor ForwardAttention(int64_t layer, const PassBatch& batch, LayerState* state);
  // Up to the input of the last product.
  void ForwardToInner(int64_t layer, const PassBatch& batch, LayerState* state);
  // The layer's output is x2 + what this returns: the caller adds, with the next norm.
  at::Tensor Forward(int64_t layer, const PassBatch& batch, LayerState* state);
  at::Tensor ForwardInChunks(int64_t layer, const at::Tensor& x2);
  void Drop(int64_t layer, LayerState* state);
  void Restore(int64_t layer, const PassBatch& batch, LayerState* state);
  // The gradient of x2 from that of the layer's output.
  at::Tensor BackwardFeedForward(int64_t layer, const at::Tensor& dy, LayerState* state);
  at::Tensor BackwardInChunks(int64_t layer, const at::Tensor& dy, const at::Tensor& x2);
  // The gradient of the layer's input from that of its output.
  at::Tensor Backward(int64_t layer, const PassBatch& batch, const at::Tensor& dy, LayerState* state);
  at::Tensor BackwardHead(const PassBatch& batch, const at::Tensor& x, Result* result);
  // The normalised hidden states at the batch's loss rows, without dropout, noise and gradients.
  at::Tensor ForwardOnly(PassBatch* batch);
  // Zeroes the gradients that a pass can only add to.
  void ClearGradients() const;

  void Pause() const {
    if (pause_) pause_();
  }

  const BaseModel* const base_;
  const Method* const method_;
  const FlatParameters* const parameters_;
  const at::ScalarType type_;
  const PassOptions options_;
  const RopeTables rope_;
  PassProducts products_;
  PassVocabulary vocabulary_;
  Norms attention_norms_, ffn_norms_, post_attention_norms_, post_ffn_norms_, q_norms_, k_norms_;
  Norm final_norm_;
  HostStore host_;
  std::function<void()> pause_;
  const int64_t lowest_;  // the lowest layer that a gradient must reach
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_DIRECT_PASS_H_
