#ifndef ATTUNE_SERVER_TUNING_DIRECT_PASS_H_
#define ATTUNE_SERVER_TUNING_DIRECT_PASS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/model/kernels/elementwise.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/pass_batch.h"

namespace attune {

// What a layer keeps from its forward for its backward pass; what it does not keep is
// computed again.
enum class Keep {
  kAll,
  kNoCheap,   // not what element-wise kernels make: both normed inputs, SwiGLU's output
  kNoGateUp,  // nor the widest product's output
  kInput,     // the layer's input alone (Chen et al. 2016)
};

// The cheapest choice for each layer whose bytes fit into `budget`; all kInput if none
// does. `tokens` of one pass, `element` bytes a value. The first layers give up first,
// and every layer the kind that is cheapest to compute again before any gives up the next.
std::vector<Keep> ChooseKeep(const ModelConfig& config, int64_t tokens, int64_t element, int64_t budget);
// Bytes that a layer keeps for each token.
int64_t KeptBytesPerToken(const ModelConfig& config, Keep keep, int64_t element);

// Forward and backward pass of a packed micro-batch, differentiated by hand: no graph
// is built, frozen weights get no gradient, and LoRA's gradients add up in the flat
// fp32 buffer as the products make them. For methods that train no weight of the base
// model (LoRA, soft prompts). The same numbers as PackedOps under autograd, to rounding.
// Launches only, on a GPU: it may be captured. Throws what libtorch throws: to be run
// inside CatchTorch. Not thread-safe.
class DirectPass {
 public:
  static bool Supports(const Method& method) { return method.kind() != ModelKind::kFullWeights; }

  // All arguments must outlive this. REQUIRES: Supports(*method).
  DirectPass(const BaseModel* base, const Method* method, const FlatParameters* parameters, at::ScalarType type,
             double dropout);
  ~DirectPass();

  struct Result {
    at::Tensor loss_sum;  // double scalar, of the rows that carry loss
    at::Tensor correct;   // int64 scalar
  };
  // Adds the gradients of loss_sum / loss_tokens to the flat buffer. `keep` has an entry a layer.
  Result Run(PassBatch batch, const std::vector<Keep>& keep);

 private:
  struct LoraProduct;
  struct LayerState;

  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x, LayerState* state);
  at::Tensor MultiplyBackward(int64_t layer, Linear which, const at::Tensor& dy, const at::Tensor& x,
                              const LayerState& state, bool needs_dx);
  // The layer's output is x2 + what this returns: the caller adds, with the next norm.
  at::Tensor Forward(int64_t layer, const PassBatch& batch, LayerState* state);
  void Drop(Keep keep, LayerState* state);
  void Restore(int64_t layer, const PassBatch& batch, LayerState* state);
  // The gradient of the layer's input from that of its output.
  at::Tensor Backward(int64_t layer, const PassBatch& batch, const at::Tensor& dy, LayerState* state);
  at::Tensor BackwardHead(const PassBatch& batch, const at::Tensor& x, Result* result);

  const BaseModel* const base_;
  const Method* const method_;
  const FlatParameters* const parameters_;
  const at::ScalarType type_;
  const double dropout_;
  const DecoderWeights weights_;
  const RopeTable rope_;
  std::vector<std::array<LoraProduct, kLinears>> lora_;  // empty without LoRA
  StepSeed seed_;                                        // of the running pass
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_DIRECT_PASS_H_
