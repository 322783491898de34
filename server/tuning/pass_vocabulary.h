#ifndef ATTUNE_SERVER_TUNING_PASS_VOCABULARY_H_
#define ATTUNE_SERVER_TUNING_PASS_VOCABULARY_H_

#include <ATen/core/Tensor.h>

#include "server/model/base_model.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/model/kernels/elementwise.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/pass_batch.h"

namespace attune {

// What stands before the layers and behind them, forward and backward, differentiated by hand: embedding and head, the base
// model's, trained ones, an adapter's whole tables or LoRA on them; and a soft prompt. Gradients add up in the flat fp32
// buffer in a fixed order. Padding tokens add none: what comes back to them is zero. Not thread-safe.
class PassVocabulary {
 public:
  // All arguments must outlive this. `type` is what the pass computes in.
  PassVocabulary(const BaseModel* base, const Method* method, const FlatParameters* parameters, at::ScalarType type,
                 double dropout);

  // Before each pass: takes over its dropout mask.
  void Begin(const StepSeed& seed);
  // Until the next Begin.
  void TurnDropoutOff() { dropout_ = 0; }

  // Whether anything below the layers trains.
  bool TrainsEmbedding() const;
  at::Tensor Embed(const PassBatch& batch) const;
  // From the gradient of what Embed gave.
  void EmbedBackward(const PassBatch& batch, const at::Tensor& dx_TD) const;

  // The head for these hidden states, which are in the pass's type.
  HeadWeights HeadFor(const at::Tensor& h_ND) const;
  // What the head's LoRA adds to the gradient of h, once the loss has been computed with a gradient: adds it to dh, and A's.
  void AdaptedHeadBackward(const HeadWeights& head, const at::Tensor& h_ND, const at::Tensor& dh_ND) const;

  // Zeroes the gradients of whole tables.
  void ClearGradients() const;

 private:
  // A LoRA's matrices, as views of the flat buffers; undefined where there is none.
  struct Term {
    at::Tensor a_RI, b_OR, da_RI, db_OR;
    double scale = 0;
    bool defined() const { return a_RI.defined(); }
  };

  Term TermOf(const LoraModule& module) const;
  // The LoRA's inner product of embedded tokens, times its scale and the embedding's.
  at::Tensor EmbeddedRanks(const PassBatch& batch) const;
  at::Tensor Dropped(const at::Tensor& h_ND) const;

  const BaseModel* const base_;
  const FlatParameters* const parameters_;
  const at::ScalarType type_;
  const double trained_dropout_;
  double dropout_;  // of the running pass
  StepSeed seed_;   // likewise
  at::Tensor prompt_ND_, prompt_gradient_ND_;
  at::Tensor embedding_VD_, embedding_gradient_VD_;  // the latter undefined where it is frozen
  at::Tensor head_VD_, head_gradient_VD_;            // likewise
  Term embedding_term_, head_term_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_PASS_VOCABULARY_H_
