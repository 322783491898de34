#include "server/model/kernels/lora_linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "server/model/kernels/elementwise.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// inputs: x, then A and B of each term.
std::vector<LoraTerm> Terms(const Tensors& in, const std::vector<int64_t>& columns) {
  std::vector<LoraTerm> terms;
  for (size_t i = 0; i < columns.size(); ++i) terms.push_back({in[1 + 2 * i], in[2 + 2 * i], 0.5 + i, columns[i]});
  return terms;
}

Tensor Reference(const Tensors& in, const Tensor& w, const std::vector<int64_t>& columns, const Tensor& mask) {
  Tensor y = at::mm(in[0], w.t());
  for (const LoraTerm& term : Terms(in, columns)) {
    const Tensor update = at::mm(at::mm(in[0] * mask, term.a_RI.t()), term.b_OR.t()) * term.scale;
    const int64_t after = y.size(1) - term.first_column - update.size(1);
    y = y + at::constant_pad_nd(update, {term.first_column, after});
  }
  return y;
}

class LoraLinearTest : public ::testing::TestWithParam<double> {
 protected:
  void SetUp() override { at::manual_seed(11); }
  const Tensor x_ = at::randn({13, 24}), w_ = at::randn({40, 24});
};

TEST_P(LoraLinearTest, IsItsFormulaWithGradients) {
  const double dropout = GetParam();
  const Tensor mask = dropout > 0 ? DropoutWithSeed(at::ones_like(x_), dropout, 77) : at::ones_like(x_);
  // Three projections of one product, the middle one left alone, ranks of their own.
  const std::vector<int64_t> columns = {0, 30};
  const Tensors inputs = {x_, at::randn({4, 24}), at::randn({20, 4}), at::randn({2, 24}), at::randn({10, 2})};
  ExpectSameWithGradients([&](const Tensors& in) { return LoraLinear(in[0], w_, Terms(in, columns), dropout, 77); },
                          [&](const Tensors& in) { return Reference(in, w_, columns, mask); }, inputs, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Dropout, LoraLinearTest, ::testing::Values(0.0, 0.4));

TEST_F(LoraLinearTest, WithoutTermsIsTheProduct) {
  EXPECT_TRUE(Near(LoraLinear(x_, w_, {}, 0.5, 1), at::mm(x_, w_.t()), 1e-6));
}

TEST_F(LoraLinearTest, BfloatKeepsFloatGradients) {
  Tensor a = at::randn({4, 24}).set_requires_grad(true), b = at::randn({40, 4}).set_requires_grad(true);
  const Tensor y = LoraLinear(x_.to(at::kBFloat16), w_.to(at::kBFloat16), {{a, b, 2.0, 0}}, 0, 0);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  y.sum().backward();
  EXPECT_EQ(a.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(b.grad().scalar_type(), at::kFloat);
  EXPECT_TRUE(Near(b.grad(), (2.0 * at::mm(x_, a.t()).sum(0, true)).expand({40, 4}), 0.05));
}

}  // namespace
}  // namespace attune
