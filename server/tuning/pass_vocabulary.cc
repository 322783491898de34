#include "server/tuning/pass_vocabulary.h"

#include <ATen/ATen.h>

#include "server/adapters/packed_ops.h"
#include "server/adapters/vocabulary.h"
#include "server/model/kernels/matmul.h"
#include "server/model/kernels/rows.h"

namespace attune {

using at::Tensor;

PassVocabulary::PassVocabulary(const BaseModel* base, const Method* method, const FlatParameters* parameters,
                               at::ScalarType type, double dropout)
    : base_(base),
      parameters_(parameters),
      type_(type),
      trained_dropout_(dropout),
      dropout_(dropout),
      embedding_VD_(base->weights.embedding_VD) {
  const TrainedWeights* trained = method->trained_weights();
  const LoraAdapter* lora = method->lora();
  const Tensor embedding = trained ? trained->embedding_VD : lora ? lora->embedding_VD : Tensor();
  const Tensor head = trained ? trained->head_VD : lora ? lora->head_VD : Tensor();
  if (embedding.defined()) {
    embedding_VD_ = parameters->Computed(embedding);
    embedding_gradient_VD_ = parameters->Gradient(embedding);
  }
  if (head.defined()) {
    head_VD_ = parameters->Computed(head);
    head_gradient_VD_ = parameters->Gradient(head);
  }
  if (lora) {
    embedding_term_ = TermOf(lora->embedding);
    head_term_ = TermOf(lora->head);
  }
  if (const Tensor prompt = method->soft_prompt_ND(); prompt.defined()) {
    prompt_ND_ = parameters->Computed(prompt);
    prompt_gradient_ND_ = parameters->Gradient(prompt);
  }
}

PassVocabulary::Term PassVocabulary::TermOf(const LoraModule& module) const {
  if (!module.defined()) return {};
  return {parameters_->Computed(module.a_RI), parameters_->Computed(module.b_OR), parameters_->Gradient(module.a_RI),
          parameters_->Gradient(module.b_OR), module.scale};
}

void PassVocabulary::Begin(const StepSeed& seed) {
  seed_ = seed;
  dropout_ = trained_dropout_;
}

bool PassVocabulary::TrainsEmbedding() const {
  return prompt_ND_.defined() || embedding_gradient_VD_.defined() || embedding_term_.defined();
}

Tensor PassVocabulary::EmbeddedRanks(const PassBatch& batch) const {
  const LoraModule module{embedding_term_.a_RI, embedding_term_.b_OR, embedding_term_.scale};
  return EmbeddingRanks(base_->config, module, batch.tokens_T, type_);
}

Tensor PassVocabulary::Embed(const PassBatch& batch) const {
  const Tensor x = EmbedTokens(base_->config, embedding_VD_, prompt_ND_, batch.tokens_T, type_);
  if (embedding_term_.defined()) {
    MatMul(EmbeddedRanks(batch).contiguous(), As::kIs, embedding_term_.b_OR, As::kTransposed, 1, 1, x);
  }
  return x;
}

void PassVocabulary::EmbedBackward(const PassBatch& batch, const Tensor& dx) const {
  if (prompt_ND_.defined()) AddPrefixRows(dx, batch.sequences, prompt_gradient_ND_);
  const double scale = EmbeddingScale(base_->config, type_);
  if (embedding_gradient_VD_.defined()) {
    AddRowsAt(scale == 1 ? dx : dx * scale, batch.tokens_T, embedding_gradient_VD_);
  }
  if (!embedding_term_.defined()) return;
  const Term& term = embedding_term_;
  MatMul(dx, As::kTransposed, EmbeddedRanks(batch).contiguous(), As::kIs, 1, 1, term.db_OR);
  const Tensor du_TR = MatMul(dx, As::kIs, term.b_OR, As::kIs);
  // A's columns are the tokens': they add up as rows.
  const Tensor da_VR = at::zeros({term.da_RI.size(1), term.da_RI.size(0)}, term.da_RI.options());
  AddRowsAt(du_TR.mul_(term.scale * scale), batch.tokens_T, da_VR);
  Tensor(term.da_RI).add_(da_VR.t());
}

// The mask's number is that behind the layers' products.
Tensor PassVocabulary::Dropped(const Tensor& h) const {
  const uint32_t number = static_cast<uint32_t>(base_->config.layers * kLinears);
  return dropout_ > 0 ? DropoutOfStep(h, dropout_, seed_, number) : h;
}

HeadWeights PassVocabulary::HeadFor(const Tensor& h) const {
  HeadWeights head{.w_VD = head_VD_.defined() ? head_VD_ : base_->weights.head_VD.to(type_),
                   .dw_VD = head_gradient_VD_,
                   .softcap = base_->config.logit_softcap};
  if (!head_term_.defined()) return head;
  head.u_NR = MatMul(Dropped(h), As::kIs, head_term_.a_RI, As::kTransposed);
  head.b_VR = head_term_.b_OR;
  head.du_NR = at::empty_like(head.u_NR);
  head.db_VR = head_term_.db_OR;
  head.scale = head_term_.scale;
  return head;
}

void PassVocabulary::AdaptedHeadBackward(const HeadWeights& head, const Tensor& h, const Tensor& dh) const {
  if (!head_term_.defined()) return;
  MatMul(head.du_NR, As::kTransposed, Dropped(h), As::kIs, 1, 1, head_term_.da_RI);
  if (dropout_ == 0) {
    MatMul(head.du_NR, As::kIs, head_term_.a_RI, As::kIs, 1, 1, dh);
    return;
  }
  Tensor(dh).add_(Dropped(MatMul(head.du_NR, As::kIs, head_term_.a_RI, As::kIs)));
}

void PassVocabulary::ClearGradients() const {
  for (Tensor gradient : {embedding_gradient_VD_, head_gradient_VD_}) {
    if (gradient.defined()) gradient.zero_();
  }
}

}  // namespace attune
