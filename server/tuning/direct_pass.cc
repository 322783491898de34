#include "server/tuning/direct_pass.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "server/model/decoder.h"
#include "server/model/kernels/elementwise.h"
#include "server/model/kernels/embedding_noise.h"
#include "server/model/kernels/head_norm.h"
#include "server/model/kernels/rows.h"

namespace attune {

using at::Tensor;

struct DirectPass::LayerState {
  Keep keep = Keep::kAll;
  Tensor x, inverse_rms1, normed1;
  HeadNormState heads;
  AttentionState attention;
  Tensor x2, inverse_rms2, normed2, gate_up, inner;
  PostNormState post_attention, post_ffn;
  std::array<Tensor, kLinears> u;  // LoRA's inner products, T x R
};

int64_t KeptBytesPerToken(const ModelConfig& config, Keep keep, int64_t element) {
  const int64_t cheap = 2 * config.hidden + config.intermediate, gate_up = 2 * config.intermediate;
  int64_t rest = config.hidden + config.qkv_size() + config.q_size();  // x2, q/k/v, attention's output
  if (config.qk_norm) rest += config.q_size() + config.kv_size();      // q and k before their norms
  if (config.post_norms) rest += 2 * config.hidden;                    // what is added, before its norms
  if (keep == Keep::kHost) return 0;
  int64_t values = config.hidden;  // the input
  if (keep != Keep::kInput && keep != Keep::kInputWhole) values += rest;
  if (keep == Keep::kAll || keep == Keep::kNoCheap) values += gate_up;
  if (keep == Keep::kAll) values += cheap;
  return values * element;
}

std::vector<Keep> ChooseKeep(const ModelConfig& config, int64_t tokens, int64_t element, int64_t budget,
                             bool has_host) {
  std::vector<Keep> keep(config.layers, Keep::kAll);
  int64_t bytes = config.layers * tokens * KeptBytesPerToken(config, Keep::kAll, element);
  for (Keep next : {Keep::kNoCheap, Keep::kNoGateUp, Keep::kInput, Keep::kHost}) {
    if (next == Keep::kHost && !has_host) break;
    for (Keep& layer : keep) {
      if (bytes <= budget) return keep;
      bytes -= tokens * (KeptBytesPerToken(config, layer, element) - KeptBytesPerToken(config, next, element));
      layer = next;
    }
  }
  return keep;
}

DirectPass::DirectPass(const BaseModel* base, const Method* method, const FlatParameters* parameters,
                       at::ScalarType type, double dropout, const PassOptions& options)
    : base_(base),
      method_(method),
      parameters_(parameters),
      type_(type),
      options_(options),
      rope_(RopeTablesOf(*base)),
      products_(base, method, parameters, type, dropout),
      vocabulary_(base, method, parameters, type, dropout),
      host_(base->target, base->config.layers),
      lowest_(LowestLayer()) {
  at::NoGradGuard no_grad;
  const TrainedWeights none{.layers = std::vector<TrainedWeights::Layer>(base->config.layers)};
  const TrainedWeights& trained = method->trained_weights() ? *method->trained_weights() : none;
  for (int64_t i = 0; i < base->config.layers; ++i) {
    const LayerWeights& layer = base->weights.layers[i];
    attention_norms_.push_back(MakeNorm(layer.attention_norm_D, trained.layers[i].attention_norm_D));
    ffn_norms_.push_back(MakeNorm(layer.ffn_norm_D, trained.layers[i].ffn_norm_D));
    if (base->config.post_norms) {
      post_attention_norms_.push_back(MakeNorm(layer.post_attention_norm_D, trained.layers[i].post_attention_norm_D));
      post_ffn_norms_.push_back(MakeNorm(layer.post_ffn_norm_D, trained.layers[i].post_ffn_norm_D));
    }
    if (!base->config.qk_norm) continue;
    q_norms_.push_back(MakeNorm(layer.q_norm_A, trained.layers[i].q_norm_A));
    k_norms_.push_back(MakeNorm(layer.k_norm_A, trained.layers[i].k_norm_A));
  }
  final_norm_ = MakeNorm(base->weights.final_norm_D, trained.final_norm_D);
}

DirectPass::~DirectPass() = default;

DirectPass::Norm DirectPass::MakeNorm(const Tensor& weight_D, const Tensor& leaf) const {
  if (!leaf.defined()) return {weight_D.to(type_), Tensor(), Tensor()};
  if (base_->config.norm_offset != 0) return {Tensor(), parameters_->Gradient(leaf), leaf};
  return {parameters_->Computed(leaf), parameters_->Gradient(leaf), Tensor()};
}

void DirectPass::RefreshNorms() {
  auto refresh = [this](Norm* norm) {
    if (norm->leaf.defined()) norm->weight_D = (norm->leaf + base_->config.norm_offset).to(type_);
  };
  for (Norms* norms : {&attention_norms_, &ffn_norms_, &post_attention_norms_, &post_ffn_norms_, &q_norms_, &k_norms_}) {
    for (Norm& norm : *norms) refresh(&norm);
  }
  refresh(&final_norm_);
}

Tensor DirectPass::PostNorm(const Norms& norms, int64_t layer, const Tensor& product, PostNormState* state) const {
  if (norms.empty()) return product;
  state->product_TD = product;
  return RmsNormForward(product, norms[layer].weight_D, base_->config.rms_epsilon, &state->inverse_rms);
}

Tensor DirectPass::PostNormBackward(const Norms& norms, int64_t layer, const Tensor& dy, const PostNormState& state) const {
  if (norms.empty()) return dy;
  return NormBackward(norms[layer], dy, state.product_TD, state.inverse_rms, Tensor());
}

int64_t DirectPass::LowestLayer() const {
  if (vocabulary_.TrainsEmbedding() || method_->prefix()) return 0;
  const TrainedWeights* trained = method_->trained_weights();
  for (int64_t i = 0; i < base_->config.layers; ++i) {
    if (products_.Trains(i)) return i;
    if (!trained) continue;
    const TrainedWeights::Layer& layer = trained->layers[i];
    for (const Tensor* norm : {&layer.attention_norm_D, &layer.ffn_norm_D, &layer.post_attention_norm_D,
                               &layer.post_ffn_norm_D, &layer.q_norm_A, &layer.k_norm_A}) {
      if (norm->defined()) return i;
    }
  }
  return base_->config.layers;
}

Tensor DirectPass::NormBackward(const Norm& norm, const Tensor& dy, const Tensor& x, const Tensor& inverse_rms,
                                const Tensor& residual) const {
  return RmsNormBackward(dy, x, norm.weight_D, inverse_rms, residual, norm.gradient_D);
}

Tensor DirectPass::Multiply(int64_t layer, Linear which, const Tensor& x, LayerState* state) {
  return products_.Multiply(layer, which, x, &state->u[static_cast<int>(which)]);
}

Tensor DirectPass::MultiplyBackward(int64_t layer, Linear which, const Tensor& dy, const Tensor& x,
                                    LayerState* state, bool needs_dx) {
  return products_.MultiplyBackward(layer, which, dy, x, &state->u[static_cast<int>(which)], needs_dx);
}

namespace {

// Whether the backward pass begins with the layer's input and nothing else.
bool IsInputOnly(Keep keep) { return keep == Keep::kInput || keep == Keep::kInputWhole || keep == Keep::kHost; }

}  // namespace

bool DirectPass::InChunks(const LayerState& s) const {
  return (s.keep == Keep::kInput || s.keep == Keep::kHost) && s.x.size(0) > kFeedForwardRows;
}

void DirectPass::NormHeads(int64_t layer, const Tensor& qkv, LayerState* s) const {
  if (q_norms_.empty()) return;
  HeadNormsForward(qkv, AttentionShapeOf(base_->config), q_norms_[layer].weight_D, k_norms_[layer].weight_D,
                   base_->config.rms_epsilon, &s->heads);
}

void DirectPass::NormHeadsBackward(int64_t layer, const Tensor& dqkv, const LayerState& s) const {
  if (q_norms_.empty()) return;
  const Norm &q = q_norms_[layer], &k = k_norms_[layer];
  HeadNormsBackward(dqkv, AttentionShapeOf(base_->config), q.weight_D, k.weight_D, s.heads, q.gradient_D, k.gradient_D);
}

void DirectPass::PlacePrefix(int64_t layer, const PassBatch& batch, const Tensor& qkv) const {
  if (!method_->prefix()) return;
  const Tensor& ids = batch.tokens_T;
  const Tensor trained = parameters_->Computed(method_->prefix()->keys_values_LNE).select(0, layer);
  const Tensor keys_values = qkv.narrow(1, base_->config.q_size(), trained.size(1));
  keys_values.copy_(at::where(ids.lt(0).unsqueeze(1), trained.index_select(0, (-1 - ids).clamp_min(0)), keys_values));
}

void DirectPass::PrefixBackward(int64_t layer, const PassBatch& batch, const Tensor& dqkv) const {
  if (!method_->prefix()) return;
  const Tensor gradient = parameters_->Gradient(method_->prefix()->keys_values_LNE).select(0, layer);
  const Tensor dkeys_values = dqkv.narrow(1, base_->config.q_size(), gradient.size(1));
  AddPrefixRows(dkeys_values.contiguous(), batch.sequences, gradient);
  dkeys_values.masked_fill_(batch.tokens_T.lt(0).unsqueeze(1), 0);
}

Tensor DirectPass::ForwardAttention(int64_t layer, const PassBatch& batch, LayerState* s) {
  if (!s->normed1.defined()) {
    s->normed1 = RmsNormForward(s->x, attention_norms_[layer].weight_D, base_->config.rms_epsilon, &s->inverse_rms1);
  }
  const Tensor qkv = Multiply(layer, Linear::kQkv, s->normed1, s);
  NormHeads(layer, qkv, s);
  PlacePrefix(layer, batch, qkv);
  if (InChunks(*s)) s->normed1 = Tensor();
  const ModelConfig& config = base_->config;
  const Tensor attended = PackedAttentionForward(qkv, AttentionShapeOf(config, layer), rope_.Of(config, layer),
                                                 batch.sequences, &s->attention);
  return PostNorm(post_attention_norms_, layer, Multiply(layer, Linear::kO, attended, s), &s->post_attention);
}

void DirectPass::ForwardToInner(int64_t layer, const PassBatch& batch, LayerState* s) {
  s->normed2 = AddRmsNormForward(s->x, ForwardAttention(layer, batch, s), ffn_norms_[layer].weight_D,
                                 base_->config.rms_epsilon, &s->x2, &s->inverse_rms2);
  s->gate_up = Multiply(layer, Linear::kGateUp, s->normed2, s);
  s->inner = GatedUnitForward(s->gate_up, base_->config.activation);
}

Tensor DirectPass::Forward(int64_t layer, const PassBatch& batch, LayerState* s) {
  if (InChunks(*s)) {
    s->x2 = s->x + ForwardAttention(layer, batch, s);
    s->attention = {};
    s->heads = {};
    s->post_attention = {};
    return ForwardInChunks(layer, s->x2);
  }
  ForwardToInner(layer, batch, s);
  return PostNorm(post_ffn_norms_, layer, Multiply(layer, Linear::kDown, s->inner, s), &s->post_ffn);
}

Tensor DirectPass::ForwardInChunks(int64_t layer, const Tensor& x2) {
  const Tensor y = at::empty_like(x2);
  const int64_t rows = x2.size(0);
  for (int64_t begin = 0; begin < rows; begin += kFeedForwardRows) {
    const int64_t n = std::min(kFeedForwardRows, rows - begin);
    Tensor inverse_rms, u_gate_up, u_down;
    const Tensor normed = RmsNormForward(x2.narrow(0, begin, n), ffn_norms_[layer].weight_D,
                                         base_->config.rms_epsilon, &inverse_rms);
    const Tensor inner = GatedUnitForward(products_.Multiply(layer, Linear::kGateUp, normed, &u_gate_up, begin),
                                          base_->config.activation);
    PostNormState post_ffn;
    y.narrow(0, begin, n).copy_(PostNorm(post_ffn_norms_, layer,
                                         products_.Multiply(layer, Linear::kDown, inner, &u_down, begin), &post_ffn));
  }
  return y;
}

void DirectPass::Drop(int64_t layer, LayerState* s) {
  if (s->keep == Keep::kAll) return;
  if (IsInputOnly(s->keep)) {
    LayerState input;
    input.keep = s->keep;
    input.x = s->x;
    if (s->keep == Keep::kHost) host_.Save(layer, std::exchange(input.x, Tensor()));
    *s = std::move(input);
    return;
  }
  s->normed1 = s->normed2 = s->inner = Tensor();
  if (s->keep == Keep::kNoGateUp) s->gate_up = Tensor();
}

void DirectPass::Restore(int64_t layer, const PassBatch& batch, LayerState* s) {
  if (s->keep == Keep::kAll) return;
  if (s->keep == Keep::kHost) {
    s->x = host_.Take(layer);
    if (layer > lowest_) host_.Fetch(layer - 1);
  }
  if (InChunks(*s)) {
    s->x2 = s->x + ForwardAttention(layer, batch, s);
    return;
  }
  if (IsInputOnly(s->keep)) {
    ForwardToInner(layer, batch, s);
    if (!post_ffn_norms_.empty()) {
      PostNorm(post_ffn_norms_, layer, Multiply(layer, Linear::kDown, s->inner, s), &s->post_ffn);
    }
    return;
  }
  const double epsilon = base_->config.rms_epsilon;
  s->normed1 = RmsNormForward(s->x, attention_norms_[layer].weight_D, epsilon, &s->inverse_rms1);
  s->normed2 = RmsNormForward(s->x2, ffn_norms_[layer].weight_D, epsilon, &s->inverse_rms2);
  if (!s->gate_up.defined()) s->gate_up = Multiply(layer, Linear::kGateUp, s->normed2, s);
  s->inner = GatedUnitForward(s->gate_up, base_->config.activation);
}

Tensor DirectPass::BackwardFeedForward(int64_t layer, const Tensor& dy, LayerState* s) {
  if (InChunks(*s)) return BackwardInChunks(layer, dy, std::exchange(s->x2, Tensor()));
  const Tensor dproduct = PostNormBackward(post_ffn_norms_, layer, dy, s->post_ffn);
  s->post_ffn = {};
  Tensor dgate_up = GatedUnitBackward(s->gate_up, MultiplyBackward(layer, Linear::kDown, dproduct, s->inner, s, true),
                                      base_->config.activation);
  s->inner = s->gate_up = Tensor();
  const Tensor dnormed = MultiplyBackward(layer, Linear::kGateUp, dgate_up, s->normed2, s, true);
  dgate_up = Tensor();
  return NormBackward(ffn_norms_[layer], dnormed, s->x2, s->inverse_rms2, dy);
}

Tensor DirectPass::BackwardInChunks(int64_t layer, const Tensor& dy, const Tensor& x2) {
  const Tensor dx2 = at::empty_like(x2);
  const int64_t rows = x2.size(0);
  for (int64_t begin = 0; begin < rows; begin += kFeedForwardRows) {
    const int64_t n = std::min(kFeedForwardRows, rows - begin);
    const Tensor x_part = x2.narrow(0, begin, n), dy_part = dy.narrow(0, begin, n);
    Tensor inverse_rms, u_gate_up, u_down;
    const Tensor normed =
        RmsNormForward(x_part, ffn_norms_[layer].weight_D, base_->config.rms_epsilon, &inverse_rms);
    const Tensor gate_up = products_.Multiply(layer, Linear::kGateUp, normed, &u_gate_up, begin);
    const Tensor inner = GatedUnitForward(gate_up, base_->config.activation);
    PostNormState post_ffn;
    if (!post_ffn_norms_.empty()) {
      PostNorm(post_ffn_norms_, layer, products_.Multiply(layer, Linear::kDown, inner, &u_down, begin), &post_ffn);
    }
    const Tensor dproduct = PostNormBackward(post_ffn_norms_, layer, dy_part, post_ffn);
    const Tensor dgate_up = GatedUnitBackward(
        gate_up, products_.MultiplyBackward(layer, Linear::kDown, dproduct, inner, &u_down, true, begin),
        base_->config.activation);
    const Tensor dnormed =
        products_.MultiplyBackward(layer, Linear::kGateUp, dgate_up, normed, &u_gate_up, true, begin);
    dx2.narrow(0, begin, n).copy_(NormBackward(ffn_norms_[layer], dnormed, x_part, inverse_rms, dy_part));
  }
  return dx2;
}

Tensor DirectPass::Backward(int64_t layer, const PassBatch& batch, const Tensor& dy, LayerState* s) {
  Restore(layer, batch, s);
  const Tensor dx2 = BackwardFeedForward(layer, dy, s);
  const ModelConfig& config = base_->config;
  const Tensor dproduct = PostNormBackward(post_attention_norms_, layer, dx2, s->post_attention);
  Tensor dattended = MultiplyBackward(layer, Linear::kO, dproduct, s->attention.out_TQ, s, true);
  const Tensor dqkv = PackedAttentionBackward(dattended, s->attention, AttentionShapeOf(config, layer),
                                              rope_.Of(config, layer), batch.sequences);
  PrefixBackward(layer, batch, dqkv);
  NormHeadsBackward(layer, dqkv, *s);
  dattended = Tensor();
  s->attention = {};
  s->heads = {};
  s->post_attention = {};
  if (!s->normed1.defined()) {
    s->normed1 = RmsNormForward(s->x, attention_norms_[layer].weight_D, base_->config.rms_epsilon, &s->inverse_rms1);
  }
  const bool needs_dx = layer > lowest_ || vocabulary_.TrainsEmbedding() || attention_norms_[layer].gradient_D.defined();
  const Tensor dnormed = MultiplyBackward(layer, Linear::kQkv, dqkv, s->normed1, s, needs_dx);
  if (!needs_dx) return {};
  return NormBackward(attention_norms_[layer], dnormed, s->x, s->inverse_rms1, dx2);
}

Tensor DirectPass::BackwardHead(const PassBatch& batch, const Tensor& x, Result* result) {
  const Tensor predicting = TakeRows(x, batch.loss_rows_N);
  Tensor inverse_rms;
  const Tensor h = RmsNormForward(predicting, final_norm_.weight_D, base_->config.rms_epsilon, &inverse_rms);
  const HeadWeights head = vocabulary_.HeadFor(h);
  const PassLoss loss = ComputeLoss(h, head, batch, options_, /*needs_gradient=*/true, pause_);
  vocabulary_.AdaptedHeadBackward(head, h, loss.dh_ND);
  *result = loss.result;
  return TakeRows(NormBackward(final_norm_, loss.dh_ND, predicting, inverse_rms, Tensor()), batch.row_of_T);
}

// Products replace theirs by themselves, which saves large weights a pass over memory.
void DirectPass::ClearGradients() const {
  if (!method_->trained_weights()) {
    Tensor(parameters_->gradients()).zero_();
    return;
  }
  for (const Norms* norms :
       {&attention_norms_, &ffn_norms_, &post_attention_norms_, &post_ffn_norms_, &q_norms_, &k_norms_}) {
    for (const Norm& norm : *norms) {
      if (norm.gradient_D.defined()) Tensor(norm.gradient_D).zero_();
    }
  }
  if (final_norm_.gradient_D.defined()) Tensor(final_norm_.gradient_D).zero_();
  vocabulary_.ClearGradients();
}

Tensor DirectPass::Begin(PassBatch* batch, bool replaces, bool trains) {
  StepSeed seed{.seeds_T = batch->joint.step_seeds_T, .rows_T = batch->joint.rows_T};
  if (batch->step_seed.is_cuda()) {
    seed.on_device = batch->step_seed;
  } else {
    seed.value = batch->step_seed.item<int64_t>();
  }
  products_.Begin(seed, replaces, batch->joint.foreign_TP);
  vocabulary_.Begin(seed);
  RefreshNorms();
  const Tensor x = vocabulary_.Embed(*batch);
  if (trains && options_.noise_alpha > 0) {
    AddEmbeddingNoise(x, batch->tokens_T, batch->sequences.starts_int32, method_->virtual_tokens(),
                      options_.noise_alpha, seed);
  }
  PrepareAttention(x, AttentionShapeOf(base_->config), &batch->sequences);
  return x;
}

Tensor DirectPass::ForwardOnly(PassBatch* batch) {
  Tensor x = Begin(batch, /*replaces=*/false, /*trains=*/false), delta;
  products_.TurnDropoutOff();
  vocabulary_.TurnDropoutOff();
  for (int64_t i = 0; i < base_->config.layers; ++i) {
    LayerState s;
    s.keep = Keep::kInput;  // in chunks, where there are many rows
    s.x = delta.defined() ? x + delta : x;
    delta = Forward(i, *batch, &s);
    x = s.x2;
    Pause();
  }
  Tensor inverse_rms;
  return RmsNormForward(TakeRows(x + delta, batch->loss_rows_N), final_norm_.weight_D, base_->config.rms_epsilon,
                        &inverse_rms);
}

DirectPass::Result DirectPass::Evaluate(PassBatch batch) {
  at::NoGradGuard no_grad;
  const Tensor h = ForwardOnly(&batch);
  return ComputeLoss(h, vocabulary_.HeadFor(h), batch, options_, /*needs_gradient=*/false, pause_).result;
}

Tensor DirectPass::Losses(PassBatch batch) {
  at::NoGradGuard no_grad;
  const Tensor h = ForwardOnly(&batch);
  return RowLosses(h, vocabulary_.HeadFor(h), batch, pause_);
}

DirectPass::Result DirectPass::Run(PassBatch batch, const std::vector<Keep>& keep, bool is_first) {
  at::NoGradGuard no_grad;
  host_.Reset();
  if (is_first) ClearGradients();
  Tensor x = Begin(&batch, is_first, /*trains=*/true);
  std::vector<LayerState> layers(base_->config.layers);
  Tensor delta;
  for (int64_t i = 0; i < base_->config.layers; ++i) {
    LayerState& s = layers[i];
    s.keep = keep[i];
    if (delta.defined()) {
      s.normed1 = AddRmsNormForward(x, delta, attention_norms_[i].weight_D, base_->config.rms_epsilon,
                                    &s.x, &s.inverse_rms1);
    } else {
      s.x = x;
    }
    delta = Forward(i, batch, &s);
    x = s.x2;
    if (i < lowest_) {
      s = {};
    } else {
      Drop(i, &s);
    }
    Pause();
  }
  Result result;
  x = x + delta;
  Tensor dy = BackwardHead(batch, x, &result);
  x = delta = Tensor();
  for (int64_t i = base_->config.layers - 1; i >= lowest_; --i) {
    dy = Backward(i, batch, dy, &layers[i]);
    layers[i] = {};
    Pause();
  }
  vocabulary_.EmbedBackward(batch, dy);
  return result;
}

}  // namespace attune
