#include "server/tuning/pass_products.h"

#include <ATen/ATen.h>

#include "server/adapters/dora.h"
#include "server/model/kernels/matmul.h"

namespace attune {

using at::Tensor;

struct PassProducts::Product {
  // One projection's low-rank term, as views of the flat buffers.
  struct LoraTerm {
    Tensor b_OR, db_OR;
    int64_t first_column, first_rank, rank;
    double scale;
  };
  // Neighbouring rows that train, as views of the flat buffers.
  struct TrainedRows {
    int64_t first_row;
    Tensor computed, gradient;
  };
  // IA3's scale of neighbouring outputs, or of all inputs, as views of the flat buffers.
  struct Scale {
    int64_t first_column = 0;
    Tensor computed, gradient;
  };
  // DoRA's of a term: m, the master itself, and its gradient, a view of the flat buffer; |W|^2, |V| and m / |V| of its rows, fp32, and the last in the pass's type.
  struct Magnitude {
    size_t term = 0;
    Tensor computed, gradient, squares_O, norm_O, scale_O;
  };
  Tensor weight_OI;        // with rows that train: those, or put together from frozen and trained ones
  bool is_joined = false;  // the latter
  uint32_t number = 0;     // of its dropout masks
  Tensor a_RI, da_RI;      // all A's that read the product's input
  std::vector<LoraTerm> terms;
  std::vector<Magnitude> magnitudes;
  std::vector<TrainedRows> trained;
  Tensor bias_O;  // undefined where there is none; with values that train: put together from frozen and trained ones
  std::vector<TrainedRows> trained_biases;
  std::vector<Scale> outputs;
  Scale inputs;  // undefined where there is none
};

PassProducts::PassProducts(const BaseModel* base, const Method* method, const FlatParameters* parameters,
                           at::ScalarType type, double dropout)
    : base_(base),
      parameters_(parameters),
      type_(type),
      trained_dropout_(dropout),
      dropout_(dropout),
      products_(base->config.layers) {
  at::NoGradGuard no_grad;
  const LoraAdapter* lora = method->lora();
  const TrainedWeights* trained = method->trained_weights();
  for (int64_t layer = 0; layer < base->config.layers; ++layer) {
    for (int i = 0; i < kLinears; ++i) {
      products_[layer][i].number = static_cast<uint32_t>(layer * kLinears + i);
    }
    if (lora) AddLora(*lora, layer);
    if (trained) AddTrained(trained->layers[layer], layer);
    AddBiases(trained ? trained->layers[layer].biases : std::array<Tensor, kProjections>{}, layer);
    if (method->ia3()) AddScales(method->ia3()->layers[layer], layer);
  }
}

PassProducts::~PassProducts() = default;

void PassProducts::AddLora(const LoraAdapter& lora, int64_t layer) {
  const Tensor& computed = parameters_->copy().defined() ? parameters_->copy() : parameters_->values();
  std::array<int64_t, kLinears> begin{}, ranks{};
  for (int p = 0; p < kProjections; ++p) {
    const LoraModule& module = lora.layers[layer][p];
    if (!module.defined()) continue;
    const ProjectionSlice slice = SliceOf(base_->config, static_cast<Projection>(p));
    const int which = static_cast<int>(slice.linear);
    Product& product = products_[layer][which];
    const int64_t rank = module.a_RI.size(0), width = module.a_RI.size(1);
    if (product.terms.empty()) begin[which] = parameters_->Offset(module.a_RI);
    TORCH_CHECK(parameters_->Offset(module.a_RI) == begin[which] + ranks[which] * width,
                "the A's of one product must be neighbours");
    product.terms.push_back({parameters_->Computed(module.b_OR), parameters_->Gradient(module.b_OR), slice.row,
                             ranks[which], rank, module.scale});
    if (module.magnitude_O.defined()) {
      const Tensor weight = ProjectionWeight(base_->config, base_->weights.layers[layer], static_cast<Projection>(p), type_);
      Product::Magnitude magnitude{product.terms.size() - 1, module.magnitude_O.detach(),
                                   parameters_->Gradient(module.magnitude_O)};
      magnitude.squares_O = at::linalg_vector_norm(weight, 2, {1}, false, at::kFloat).square_();
      magnitude.norm_O = at::empty_like(magnitude.squares_O);
      magnitude.scale_O = at::empty({slice.rows}, weight.options());
      product.magnitudes.push_back(std::move(magnitude));
    }
    ranks[which] += rank;
    product.a_RI = computed.narrow(0, begin[which], ranks[which] * width).view({ranks[which], width});
    product.da_RI = parameters_->gradients().narrow(0, begin[which], ranks[which] * width).view_as(product.a_RI);
  }
}

void PassProducts::AddTrained(const TrainedWeights::Layer& trained, int64_t layer) {
  const Tensor& computed = parameters_->copy().defined() ? parameters_->copy() : parameters_->values();
  for (int p = 0; p < kProjections; ++p) {
    const Tensor& leaf = trained.projections[p];
    if (!leaf.defined()) continue;
    const ProjectionSlice slice = SliceOf(base_->config, static_cast<Projection>(p));
    Product& product = products_[layer][static_cast<int>(slice.linear)];
    const int64_t width = leaf.size(1), begin = parameters_->Offset(leaf);
    // Leaves that follow one another in the buffer are one matrix: q, k and v, gate and up.
    if (!product.trained.empty()) {
      Product::TrainedRows& last = product.trained.back();
      const int64_t rows = last.computed.size(0), first = begin - rows * width;
      if (last.first_row + rows == slice.row && last.computed.storage_offset() == first) {
        last.computed = computed.narrow(0, first, (rows + slice.rows) * width).view({-1, width});
        last.gradient = parameters_->gradients().narrow(0, first, (rows + slice.rows) * width).view({-1, width});
        continue;
      }
    }
    product.trained.push_back({slice.row, parameters_->Computed(leaf), parameters_->Gradient(leaf)});
  }
  for (Product& product : products_[layer]) {
    if (product.trained.empty()) continue;
    const Tensor& rows = product.trained[0].computed;
    const Tensor& frozen = base_->weights.layers[layer].linear[&product - products_[layer].data()];
    product.is_joined = rows.size(0) < frozen.size(0);
    product.weight_OI = product.is_joined ? frozen.to(type_, /*non_blocking=*/false, /*copy=*/true) : rows;
  }
}

void PassProducts::AddBiases(const std::array<Tensor, kProjections>& trained, int64_t layer) {
  const LayerWeights& weights = base_->weights.layers[layer];
  for (int i = 0; i < kLinears; ++i) {
    if (weights.bias[i].defined()) products_[layer][i].bias_O = weights.bias[i].to(type_);
  }
  for (int p = 0; p < kProjections; ++p) {
    if (!trained[p].defined()) continue;
    const ProjectionSlice slice = SliceOf(base_->config, static_cast<Projection>(p));
    Product& product = products_[layer][static_cast<int>(slice.linear)];
    if (product.trained_biases.empty()) product.bias_O = product.bias_O.clone();  // Begin writes to it
    product.trained_biases.push_back(
        {slice.row, parameters_->Computed(trained[p]), parameters_->Gradient(trained[p])});
  }
}

void PassProducts::AddScales(const Ia3Adapter::Layer& scales, int64_t layer) {
  auto scale_of = [&](const Tensor& leaf, int64_t column) {
    return Product::Scale{column, parameters_->Computed(leaf), parameters_->Gradient(leaf)};
  };
  for (int p = 0; p < kProjections; ++p) {
    if (!scales.output[p].defined()) continue;
    const ProjectionSlice slice = SliceOf(base_->config, static_cast<Projection>(p));
    products_[layer][static_cast<int>(slice.linear)].outputs.push_back(scale_of(scales.output[p], slice.row));
  }
  if (scales.inner_I.defined()) products_[layer][static_cast<int>(Linear::kDown)].inputs = scale_of(scales.inner_I, 0);
}

bool PassProducts::Trains(int64_t layer) const {
  for (const Product& product : products_[layer]) {
    if (!product.terms.empty() || !product.trained.empty() || !product.trained_biases.empty()) return true;
    if (!product.outputs.empty() || product.inputs.computed.defined()) return true;
  }
  return false;
}

const PassProducts::Product& PassProducts::At(int64_t layer, Linear which) const {
  return products_[layer][static_cast<int>(which)];
}

Tensor PassProducts::Weight(int64_t layer, Linear which) const {
  const Product& product = At(layer, which);
  return product.weight_OI.defined() ? product.weight_OI : LinearWeight(base_->weights.layers[layer], which, type_);
}

void PassProducts::Begin(const StepSeed& seed, bool replaces, const Tensor& foreign_TP) {
  seed_ = seed;
  foreign_TP_ = foreign_TP;
  replaces_ = replaces;
  dropout_ = trained_dropout_;
  for (auto& layer : products_) {
    for (Product& product : layer) {
      if (!product.magnitudes.empty()) {
        const int64_t index = &layer - products_.data(), which = &product - layer.data();
        SetMagnitudeScales(&product, Weight(index, static_cast<Linear>(which)));
      }
      for (const Product::TrainedRows& values : product.trained_biases) {
        product.bias_O.narrow(0, values.first_row, values.computed.size(0)).copy_(values.computed);
      }
      if (!product.is_joined) continue;
      for (const Product::TrainedRows& rows : product.trained) {
        product.weight_OI.narrow(0, rows.first_row, rows.computed.size(0)).copy_(rows.computed);
      }
    }
  }
}

Tensor PassProducts::Dropped(const Product& product, const Tensor& x, int64_t first_row) const {
  return dropout_ > 0 ? DropoutOfStep(x, dropout_, seed_, product.number, Tensor(), first_row * x.size(1)) : x;
}

// Filled, not multiplied: a job whose numbers overflow is no matter to the others.
void PassProducts::ClearForeign(const Product& product, Tensor u, int64_t first_row) const {
  if (!foreign_TP_.defined()) return;
  const int64_t rows = u.size(0), jobs = foreign_TP_.size(1), terms = static_cast<int64_t>(product.terms.size());
  u.view({rows, terms, jobs, -1}).masked_fill_(foreign_TP_.narrow(0, first_row, rows).view({rows, 1, jobs, 1}), 0);
}

Tensor PassProducts::Shrink(const Product& product, const Tensor& dropped, int64_t first_row) const {
  const Tensor u = MatMul(dropped, As::kIs, product.a_RI, As::kTransposed);
  ClearForeign(product, u, first_row);
  return u;
}

Tensor PassProducts::Multiply(int64_t layer, Linear which, const Tensor& x, Tensor* u,
                               int64_t first_row) {
  const Product& product = At(layer, which);
  const Tensor& scale = product.inputs.computed;
  Tensor y = MatMul(scale.defined() ? x * scale : x, As::kIs, Weight(layer, which), As::kTransposed);
  if (!product.terms.empty() && !u->defined()) *u = Shrink(product, Dropped(product, x, first_row), first_row);
  for (const Product::LoraTerm& term : product.terms) {
    MatMul(u->narrow(1, term.first_rank, term.rank), As::kIs, term.b_OR, As::kTransposed, term.scale, 1,
           y.narrow(1, term.first_column, term.b_OR.size(0)));
  }
  for (const Product::Magnitude& magnitude : product.magnitudes) {
    y.narrow(1, product.terms[magnitude.term].first_column, magnitude.scale_O.size(0)).mul_(magnitude.scale_O);
  }
  if (product.bias_O.defined()) y.add_(product.bias_O);
  for (const Product::Scale& out : product.outputs) y.narrow(1, out.first_column, out.computed.size(0)).mul_(out.computed);
  return y;
}

// |W + s B A|^2 = |W|^2 + 2 s (W A^T) . B + s^2 (B A A^T) . B, row by row: nothing of the weight's size is made.
void PassProducts::SetMagnitudeScales(Product* product, const Tensor& weight) const {
  for (Product::Magnitude& magnitude : product->magnitudes) {
    const Product::LoraTerm& term = product->terms[magnitude.term];
    const Tensor a = product->a_RI.narrow(0, term.first_rank, term.rank), b = term.b_OR.to(at::kFloat);
    const Tensor w = weight.narrow(0, term.first_column, b.size(0));
    const Tensor wa_OR = MatMul(w, As::kIs, a, As::kTransposed).to(at::kFloat);
    const Tensor a32 = a.to(at::kFloat), aa_RR = at::matmul(a32, a32.t());
    const Tensor squares = magnitude.squares_O + at::sum((2 * term.scale) * wa_OR * b + (term.scale * term.scale) * at::matmul(b, aa_RR) * b, 1);
    magnitude.norm_O.copy_(squares.clamp_min_(1e-30).sqrt_());
    magnitude.scale_O.copy_(magnitude.computed / magnitude.norm_O);
  }
}

// What the outputs were before they were scaled is computed again.
Tensor PassProducts::MagnitudesBackward(const Product& product, const Tensor& weight, const Tensor& dy, const Tensor& x,
                                        const Tensor& u) const {
  const Tensor before = dy.clone();
  for (const Product::Magnitude& magnitude : product.magnitudes) {
    const Product::LoraTerm& term = product.terms[magnitude.term];
    const int64_t columns = magnitude.scale_O.size(0);
    const Tensor part = before.narrow(1, term.first_column, columns);
    const Tensor y = MatMul(x, As::kIs, weight.narrow(0, term.first_column, columns), As::kTransposed);
    MatMul(u.narrow(1, term.first_rank, term.rank), As::kIs, term.b_OR, As::kTransposed, term.scale, 1, y);
    Tensor(magnitude.gradient).add_(at::sum(part * y, 0, false, at::kFloat).div_(magnitude.norm_O));
    part.mul_(magnitude.scale_O);
  }
  return before;
}

// What the outputs were before they were scaled is computed again: IA3's are few.
Tensor PassProducts::ScalesBackward(const Product& product, const Tensor& weight, const Tensor& dy,
                                    const Tensor& x) const {
  const Tensor before = dy.clone();
  for (const Product::Scale& out : product.outputs) {
    const int64_t columns = out.computed.size(0);
    const Tensor part = before.narrow(1, out.first_column, columns);
    Tensor y = MatMul(x, As::kIs, weight.narrow(0, out.first_column, columns), As::kTransposed);
    if (product.bias_O.defined()) y.add_(product.bias_O.narrow(0, out.first_column, columns));
    Tensor(out.gradient).add_(at::sum(part * y, 0, false, at::kFloat));
    part.mul_(out.computed);
  }
  return before;
}

void PassProducts::BiasBackward(const Product& product, const Tensor& dy, int64_t first_row) const {
  for (const Product::TrainedRows& values : product.trained_biases) {
    const Tensor sum = at::sum(dy.narrow(1, values.first_row, values.gradient.size(0)), 0, false, at::kFloat);
    if (replaces_ && first_row == 0) {
      Tensor(values.gradient).copy_(sum);
    } else {
      Tensor(values.gradient).add_(sum);
    }
  }
}

Tensor PassProducts::MultiplyBackward(int64_t layer, Linear which, const Tensor& dy_TO, const Tensor& x,
                                      Tensor* u_TR, bool needs_dx, int64_t first_row) {
  const Product& product = At(layer, which);
  const Product::Scale& inputs = product.inputs;
  Tensor dx, dy = dy_TO, weight;
  // Made once: of a quantised model it is a new tensor.
  const bool reads_weight = needs_dx || inputs.computed.defined() || !product.outputs.empty() || !product.magnitudes.empty();
  if (reads_weight) weight = Weight(layer, which);
  if (!product.outputs.empty()) {
    dy = ScalesBackward(product, weight, dy, inputs.computed.defined() ? x * inputs.computed : x);
  }
  Tensor dropped;
  if (!product.terms.empty()) {
    dropped = Dropped(product, x, first_row);
    if (!u_TR->defined()) *u_TR = Shrink(product, dropped, first_row);
  }
  if (!product.magnitudes.empty()) dy = MagnitudesBackward(product, weight, dy, x, *u_TR);
  if (needs_dx || inputs.computed.defined()) dx = MatMul(dy, As::kIs, weight, As::kIs);
  if (inputs.computed.defined()) {
    Tensor(inputs.gradient).add_(at::sum(dx * x, 0, false, at::kFloat));
    dx.mul_(inputs.computed);
  }
  for (const Product::TrainedRows& rows : product.trained) {
    const Tensor dy_rows = dy.narrow(1, rows.first_row, rows.gradient.size(0));
    MatMul(dy_rows, As::kTransposed, x, As::kIs, 1, replaces_ && first_row == 0 ? 0 : 1, rows.gradient);
  }
  BiasBackward(product, dy, first_row);
  if (product.terms.empty()) return dx;
  const Tensor& u = *u_TR;
  Tensor du = at::empty_like(u);
  for (const Product::LoraTerm& term : product.terms) {
    const Tensor dy_term = dy.narrow(1, term.first_column, term.b_OR.size(0));
    MatMul(dy_term, As::kIs, term.b_OR, As::kIs, term.scale, 0, du.narrow(1, term.first_rank, term.rank));
    MatMul(dy_term, As::kTransposed, u.narrow(1, term.first_rank, term.rank), As::kIs, term.scale, 1, term.db_OR);
  }
  ClearForeign(product, du, first_row);
  MatMul(du, As::kTransposed, dropped, As::kIs, 1, 1, product.da_RI);
  if (!needs_dx) return dx;
  if (dropout_ > 0) {
    return DropoutOfStep(MatMul(du, As::kIs, product.a_RI, As::kIs), dropout_, seed_, product.number, dx,
                         first_row * x.size(1));
  }
  MatMul(du, As::kIs, product.a_RI, As::kIs, 1, 1, dx);
  return dx;
}

}  // namespace attune
