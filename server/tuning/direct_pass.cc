#include "server/tuning/direct_pass.h"

#include <ATen/ATen.h>

#include <utility>

#include "server/adapters/packed_ops.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/model/kernels/matmul.h"
#include "server/model/kernels/rows.h"

namespace attune {

using at::Tensor;

// The LoRA terms of one product, as views of the flat buffers.
struct DirectPass::LoraProduct {
  struct Term {
    Tensor b_OR, db_OR;
    int64_t first_column, first_rank, rank;
    double scale;
  };
  Tensor a_RI, da_RI;  // all A's that read the product's input
  std::vector<Term> terms;
};

struct DirectPass::LayerState {
  Keep keep = Keep::kAll;
  Tensor x, inverse_rms1, normed1;
  AttentionState attention;
  Tensor x2, inverse_rms2, normed2, gate_up, inner;
  std::array<Tensor, kLinears> u;  // LoRA's inner products, T x R
};

int64_t KeptBytesPerToken(const ModelConfig& config, Keep keep, int64_t element) {
  const int64_t cheap = 2 * config.hidden + config.intermediate, gate_up = 2 * config.intermediate;
  const int64_t rest = config.hidden + config.qkv_size() + config.q_size();  // x2, q/k/v, attention's output
  int64_t values = config.hidden;                                           // the input
  if (keep != Keep::kInput) values += rest;
  if (keep == Keep::kAll || keep == Keep::kNoCheap) values += gate_up;
  if (keep == Keep::kAll) values += cheap;
  return values * element;
}

std::vector<Keep> ChooseKeep(const ModelConfig& config, int64_t tokens, int64_t element, int64_t budget) {
  std::vector<Keep> keep(config.layers, Keep::kAll);
  int64_t bytes = config.layers * tokens * KeptBytesPerToken(config, Keep::kAll, element);
  for (Keep next : {Keep::kNoCheap, Keep::kNoGateUp, Keep::kInput}) {
    for (Keep& layer : keep) {
      if (bytes <= budget) return keep;
      bytes -= tokens * (KeptBytesPerToken(config, layer, element) - KeptBytesPerToken(config, next, element));
      layer = next;
    }
  }
  return keep;
}

DirectPass::DirectPass(const BaseModel* base, const Method* method, const FlatParameters* parameters,
                       at::ScalarType type, double dropout)
    : base_(base),
      method_(method),
      parameters_(parameters),
      type_(type),
      dropout_(dropout),
      weights_(method->Weights()),
      rope_{base->rope_cos_PH, base->rope_sin_PH} {
  const LoraAdapter* lora = method->lora();
  if (!lora) return;
  const Tensor& computed = parameters->copy().defined() ? parameters->copy() : parameters->values();
  lora_.resize(base->config.layers);
  for (int64_t layer = 0; layer < base->config.layers; ++layer) {
    std::array<int64_t, kLinears> begin{}, ranks{};
    for (int p = 0; p < kProjections; ++p) {
      const LoraModule& module = lora->layers[layer][p];
      if (!module.defined()) continue;
      const ProjectionSlice slice = SliceOf(base->config, static_cast<Projection>(p));
      const int which = static_cast<int>(slice.linear);
      LoraProduct& product = lora_[layer][which];
      const int64_t rank = module.a_RI.size(0), width = module.a_RI.size(1);
      if (product.terms.empty()) begin[which] = parameters->Offset(module.a_RI);
      TORCH_CHECK(parameters->Offset(module.a_RI) == begin[which] + ranks[which] * width,
                  "the A's of one product must be neighbours");
      product.terms.push_back({parameters->Computed(module.b_OR), parameters->Gradient(module.b_OR), slice.row,
                               ranks[which], rank, module.scale});
      ranks[which] += rank;
      product.a_RI = computed.narrow(0, begin[which], ranks[which] * width).view({ranks[which], width});
      product.da_RI = parameters->gradients().narrow(0, begin[which], ranks[which] * width).view_as(product.a_RI);
    }
  }
}

DirectPass::~DirectPass() = default;

namespace {

uint32_t DropoutNumber(int64_t layer, Linear which) { return layer * kLinears + static_cast<uint32_t>(which); }

}  // namespace

Tensor DirectPass::Multiply(int64_t layer, Linear which, const Tensor& x, LayerState* state) {
  const int index = static_cast<int>(which);
  Tensor y = MatMul(x, As::kIs, weights_.layers[layer].linear[index].to(type_), As::kTransposed);
  if (lora_.empty() || lora_[layer][index].terms.empty()) return y;
  const LoraProduct& product = lora_[layer][index];
  Tensor& u = state->u[index];
  if (!u.defined()) {
    const Tensor dropped = dropout_ > 0 ? DropoutOfStep(x, dropout_, seed_, DropoutNumber(layer, which)) : x;
    u = MatMul(dropped, As::kIs, product.a_RI, As::kTransposed);
  }
  for (const LoraProduct::Term& term : product.terms) {
    MatMul(u.narrow(1, term.first_rank, term.rank), As::kIs, term.b_OR, As::kTransposed, term.scale, 1,
           y.narrow(1, term.first_column, term.b_OR.size(0)));
  }
  return y;
}

Tensor DirectPass::MultiplyBackward(int64_t layer, Linear which, const Tensor& dy, const Tensor& x,
                                    const LayerState& state, bool needs_dx) {
  const int index = static_cast<int>(which);
  Tensor dx;
  if (needs_dx) dx = MatMul(dy, As::kIs, weights_.layers[layer].linear[index].to(type_), As::kIs);
  if (lora_.empty() || lora_[layer][index].terms.empty()) return dx;
  const LoraProduct& product = lora_[layer][index];
  const Tensor& u = state.u[index];
  Tensor du = at::empty_like(u);
  for (const LoraProduct::Term& term : product.terms) {
    const Tensor dy_term = dy.narrow(1, term.first_column, term.b_OR.size(0));
    MatMul(dy_term, As::kIs, term.b_OR, As::kIs, term.scale, 0, du.narrow(1, term.first_rank, term.rank));
    MatMul(dy_term, As::kTransposed, u.narrow(1, term.first_rank, term.rank), As::kIs, term.scale, 1, term.db_OR);
  }
  const uint32_t number = DropoutNumber(layer, which);
  const Tensor dropped = dropout_ > 0 ? DropoutOfStep(x, dropout_, seed_, number) : x;
  MatMul(du, As::kTransposed, dropped, As::kIs, 1, 1, product.da_RI);
  if (!needs_dx) return dx;
  if (dropout_ > 0) return DropoutOfStep(MatMul(du, As::kIs, product.a_RI, As::kIs), dropout_, seed_, number, dx);
  MatMul(du, As::kIs, product.a_RI, As::kIs, 1, 1, dx);
  return dx;
}

Tensor DirectPass::Forward(int64_t layer, const PassBatch& batch, LayerState* s) {
  const LayerWeights& w = weights_.layers[layer];
  const double epsilon = base_->config.rms_epsilon;
  if (!s->normed1.defined()) s->normed1 = RmsNormForward(s->x, w.attention_norm_D.to(type_), epsilon, &s->inverse_rms1);
  const Tensor qkv = Multiply(layer, Linear::kQkv, s->normed1, s);
  const Tensor attended =
      PackedAttentionForward(qkv, AttentionShapeOf(base_->config), rope_, batch.sequences, &s->attention);
  s->normed2 = AddRmsNormForward(s->x, Multiply(layer, Linear::kO, attended, s), w.ffn_norm_D.to(type_), epsilon,
                                 &s->x2, &s->inverse_rms2);
  s->gate_up = Multiply(layer, Linear::kGateUp, s->normed2, s);
  s->inner = SwiGluForward(s->gate_up);
  return Multiply(layer, Linear::kDown, s->inner, s);
}

void DirectPass::Drop(Keep keep, LayerState* s) {
  s->keep = keep;
  if (keep == Keep::kAll) return;
  if (keep == Keep::kInput) {
    LayerState input;
    input.keep = keep;
    input.x = s->x;
    *s = std::move(input);
    return;
  }
  s->normed1 = s->normed2 = s->inner = Tensor();
  if (keep == Keep::kNoGateUp) s->gate_up = Tensor();
}

void DirectPass::Restore(int64_t layer, const PassBatch& batch, LayerState* s) {
  if (s->keep == Keep::kAll) return;
  if (s->keep == Keep::kInput) {
    Forward(layer, batch, s);
    return;
  }
  const LayerWeights& w = weights_.layers[layer];
  const double epsilon = base_->config.rms_epsilon;
  s->normed1 = RmsNormForward(s->x, w.attention_norm_D.to(type_), epsilon, &s->inverse_rms1);
  s->normed2 = RmsNormForward(s->x2, w.ffn_norm_D.to(type_), epsilon, &s->inverse_rms2);
  if (!s->gate_up.defined()) s->gate_up = Multiply(layer, Linear::kGateUp, s->normed2, s);
  s->inner = SwiGluForward(s->gate_up);
}

Tensor DirectPass::Backward(int64_t layer, const PassBatch& batch, const Tensor& dy, LayerState* s) {
  Restore(layer, batch, s);
  const LayerWeights& w = weights_.layers[layer];
  Tensor dgate_up = SwiGluBackward(s->gate_up, MultiplyBackward(layer, Linear::kDown, dy, s->inner, *s, true));
  s->inner = s->gate_up = Tensor();
  Tensor dnormed = MultiplyBackward(layer, Linear::kGateUp, dgate_up, s->normed2, *s, true);
  dgate_up = Tensor();
  const Tensor dx2 = RmsNormBackward(dnormed, s->x2, w.ffn_norm_D.to(type_), s->inverse_rms2, dy);
  Tensor dattended = MultiplyBackward(layer, Linear::kO, dx2, s->attention.out_TQ, *s, true);
  const Tensor dqkv =
      PackedAttentionBackward(dattended, s->attention, AttentionShapeOf(base_->config), rope_, batch.sequences);
  // Nothing trains below the first layer but a soft prompt.
  const bool needs_dx = layer > 0 || method_->soft_prompt_ND().defined();
  dnormed = MultiplyBackward(layer, Linear::kQkv, dqkv, s->normed1, *s, needs_dx);
  if (!needs_dx) return {};
  return RmsNormBackward(dnormed, s->x, w.attention_norm_D.to(type_), s->inverse_rms1, dx2);
}

Tensor DirectPass::BackwardHead(const PassBatch& batch, const Tensor& x, Result* result) {
  const Tensor predicting = TakeRows(x, batch.loss_rows_N), norm = weights_.final_norm_D.to(type_);
  Tensor inverse_rms;
  const Tensor h = RmsNormForward(predicting, norm, base_->config.rms_epsilon, &inverse_rms);
  const Tensor scale = batch.loss_tokens.to(at::kFloat).reciprocal();
  const CrossEntropySums sums = LinearCrossEntropySums(h, weights_.head_VD.to(type_), batch.targets_N, scale, true);
  result->loss_sum = sums.loss_sum;
  result->correct = sums.correct;
  return TakeRows(RmsNormBackward(sums.dh_ND, predicting, norm, inverse_rms, Tensor()), batch.row_of_T);
}

DirectPass::Result DirectPass::Run(PassBatch batch, const std::vector<Keep>& keep) {
  at::NoGradGuard no_grad;
  if (batch.step_seed.is_cuda()) {
    seed_ = {0, batch.step_seed};
  } else {
    seed_ = {batch.step_seed.item<int64_t>(), Tensor()};
  }
  const Tensor prompt = method_->soft_prompt_ND();
  Tensor x = EmbedTokens(weights_.embedding_VD, prompt.defined() ? parameters_->Computed(prompt) : Tensor(),
                         batch.tokens_T, type_);
  PrepareAttention(x, AttentionShapeOf(base_->config), &batch.sequences);
  std::vector<LayerState> layers(base_->config.layers);
  Tensor delta;
  for (int64_t i = 0; i < base_->config.layers; ++i) {
    LayerState& s = layers[i];
    if (delta.defined()) {
      s.normed1 = AddRmsNormForward(x, delta, weights_.layers[i].attention_norm_D.to(type_), base_->config.rms_epsilon,
                                    &s.x, &s.inverse_rms1);
    } else {
      s.x = x;
    }
    delta = Forward(i, batch, &s);
    x = s.x2;
    Drop(keep[i], &s);
  }
  Result result;
  x = x + delta;
  Tensor dy = BackwardHead(batch, x, &result);
  x = delta = Tensor();
  for (int64_t i = base_->config.layers - 1; i >= 0; --i) {
    dy = Backward(i, batch, dy, &layers[i]);
    layers[i] = {};
  }
  if (prompt.defined()) AddPrefixRows(dy, batch.sequences, parameters_->Gradient(prompt));
  return result;
}

}  // namespace attune
