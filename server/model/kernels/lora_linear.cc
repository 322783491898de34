#include "server/model/kernels/lora_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "server/model/kernels/elementwise.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Everything of the terms that is no gradient-carrying tensor.
struct TermShape {
  std::vector<int64_t> ranks, first_columns, columns;
  std::vector<double> scales;
};

TermShape ShapeOf(const std::vector<LoraTerm>& terms) {
  TermShape shape;
  for (const LoraTerm& term : terms) {
    shape.ranks.push_back(term.a_RI.size(0));
    shape.first_columns.push_back(term.first_column);
    shape.columns.push_back(term.b_OR.size(0));
    shape.scales.push_back(term.scale);
  }
  return shape;
}

class LoraLinearFunction : public torch::autograd::Function<LoraLinearFunction> {
 public:
  // `factors` are all A's, then all B's.
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w, const TermShape& shape,
                        double dropout, int64_t seed, at::TensorList factors) {
    const at::TensorList f = factors;
    const size_t n = shape.ranks.size();
    const auto type = x.scalar_type();
    Tensor a = at::cat(f.slice(0, n)).to(type);
    Tensor dropped = dropout > 0 ? DropoutWithSeed(x, dropout, seed) : x;
    Tensor u = at::mm(dropped, a.t());
    Tensor y = at::mm(x, w.t());
    variable_list saved = {x, w, a, u};
    int64_t rank = 0;
    for (size_t i = 0; i < n; ++i) {
      Tensor b = f[n + i].to(type);
      y.narrow(1, shape.first_columns[i], shape.columns[i])
          .addmm_(u.narrow(1, rank, shape.ranks[i]), b.t(), 1, shape.scales[i]);
      saved.push_back(b);
      rank += shape.ranks[i];
    }
    context->save_for_backward(saved);
    context->saved_data["ranks"] = shape.ranks;
    context->saved_data["first_columns"] = shape.first_columns;
    context->saved_data["columns"] = shape.columns;
    context->saved_data["scales"] = shape.scales;
    context->saved_data["dropout"] = dropout;
    context->saved_data["seed"] = seed;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &a = saved[2], &u = saved[3];
    std::vector<int64_t> ranks = context->saved_data["ranks"].toIntVector();
    std::vector<int64_t> first = context->saved_data["first_columns"].toIntVector();
    std::vector<int64_t> columns = context->saved_data["columns"].toIntVector();
    std::vector<double> scales = context->saved_data["scales"].toDoubleVector();
    const double dropout = context->saved_data["dropout"].toDouble();
    const int64_t seed = context->saved_data["seed"].toInt();
    const size_t n = ranks.size();
    const Tensor dy = grads[0].contiguous();

    Tensor du = at::empty_like(u);
    variable_list result = {Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
    variable_list db(n);
    int64_t rank = 0;
    for (size_t i = 0; i < n; ++i) {
      Tensor dyi = dy.narrow(1, first[i], columns[i]);
      Tensor dui = du.narrow(1, rank, ranks[i]);
      dui.copy_(at::mm(dyi, saved[4 + i]).mul_(scales[i]));
      db[i] = at::mm(dyi.t(), u.narrow(1, rank, ranks[i])).mul_(scales[i]).to(at::kFloat);
      rank += ranks[i];
    }
    Tensor dropped = dropout > 0 ? DropoutWithSeed(x, dropout, seed) : x;
    Tensor da = at::mm(du.t(), dropped).to(at::kFloat);
    if (context->needs_input_grad(0)) {
      Tensor dx = at::mm(dy, w);
      if (dropout > 0) {
        dx.add_(DropoutWithSeed(at::mm(du, a), dropout, seed));
      } else {
        dx.addmm_(du, a);
      }
      result[0] = dx;
    }
    rank = 0;
    for (size_t i = 0; i < n; ++i) {
      result.push_back(da.narrow(0, rank, ranks[i]).contiguous());
      rank += ranks[i];
    }
    result.insert(result.end(), db.begin(), db.end());
    return result;
  }
};

}  // namespace

Tensor LoraLinear(const Tensor& x_TI, const Tensor& w_OI, const std::vector<LoraTerm>& terms, double dropout,
                  uint64_t dropout_seed) {
  if (terms.empty()) return at::linear(x_TI, w_OI);
  std::vector<Tensor> factors;
  for (const LoraTerm& term : terms) factors.push_back(term.a_RI);
  for (const LoraTerm& term : terms) factors.push_back(term.b_OR);
  return LoraLinearFunction::apply(x_TI, w_OI, ShapeOf(terms), dropout, static_cast<int64_t>(dropout_seed),
                                   at::TensorList(factors));
}

}  // namespace attune
