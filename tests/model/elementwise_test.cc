#include "server/model/kernels/elementwise.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "server/model/kernels/fast_math.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

constexpr double kTolerance = 1e-5;

class ElementwiseTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(3); }
};

TEST_F(ElementwiseTest, RmsNormIsItsFormulaWithGradients) {
  auto reference = [](const Tensors& in) {
    return in[0] * (in[0].square().mean(-1, true) + 1e-5).rsqrt() * in[1];
  };
  for (int64_t columns : {1, 7, 64, 577}) {
    ExpectSameWithGradients([](const Tensors& in) { return RmsNorm(in[0], in[1], 1e-5); }, reference,
                            {at::randn({5, columns}), at::randn({columns})}, kTolerance);
  }
}

TEST_F(ElementwiseTest, RmsNormOfZerosIsZero) {
  EXPECT_EQ(RmsNorm(at::zeros({2, 8}), at::ones({8}), 1e-5).abs().max().item<float>(), 0);
}

TEST_F(ElementwiseTest, RmsNormInBfloat16KeepsItsStatisticsInFloat) {
  const Tensor x = at::randn({4, 512}), w = at::ones({512});
  const Tensor y = RmsNorm(x.to(at::kBFloat16), w.to(at::kBFloat16), 1e-5);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(Near(y, RmsNorm(x, w, 1e-5), 0.01));
}

TEST_F(ElementwiseTest, GatedUnitsAreTheirFormulasWithGradients) {
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    auto reference = [&](const Tensors& in) {
      const int64_t inner = in[0].size(1) / 2;
      const Tensor gate = in[0].narrow(1, 0, inner);
      return (activation == Activation::kSilu ? at::silu(gate) : at::gelu(gate, "tanh")) * in[0].narrow(1, inner, inner);
    };
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {  // the latter through ATen
      for (int64_t inner : {1, 9, 300}) {
        ExpectSameWithGradients([&](const Tensors& in) { return GatedUnit(in[0], activation); }, reference,
                                {at::randn({6, 2 * inner}, type) * 4}, kTolerance);
      }
    }
  }
}

TEST_F(ElementwiseTest, GatedUnitsHoldAtExtremes) {
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    const Tensor y = GatedUnit(at::tensor({-200.0f, 200.0f, 2.0f, 3.0f}).view({1, 4}), activation);
    EXPECT_NEAR(y[0][0].item<float>(), 0, 1e-30);
    EXPECT_EQ(y[0][1].item<float>(), 600);
  }
}

TEST_F(ElementwiseTest, DropoutDropsItsShareAndScalesTheRest) {
  const Tensor y = DropoutWithSeed(at::ones({1000, 100}), 0.3, 17);
  const double kept = y.gt(0).to(at::kFloat).mean().item<double>();
  EXPECT_NEAR(kept, 0.7, 0.01);
  EXPECT_NEAR(y.max().item<float>(), 1 / 0.7f, 1e-6);
  EXPECT_NEAR(y.mean().item<double>(), 1, 0.02);
}

TEST_F(ElementwiseTest, DropoutFollowsItsSeed) {
  const Tensor x = at::ones({100, 10});
  EXPECT_TRUE(at::equal(DropoutWithSeed(x, 0.5, 1), DropoutWithSeed(x, 0.5, 1)));
  EXPECT_FALSE(at::equal(DropoutWithSeed(x, 0.5, 1), DropoutWithSeed(x, 0.5, 2)));
}

TEST_F(ElementwiseTest, DropoutDrawsOneMaskForEveryType) {
  const Tensor x = at::ones({64, 33});
  const Tensor loops = DropoutWithSeed(x, 0.25, 99).gt(0), composed = DropoutWithSeed(x.to(at::kBFloat16), 0.25, 99).gt(0);
  EXPECT_TRUE(at::equal(loops, composed));
}

TEST(FastExpTest, AgreesWithExp) {
  for (double x = -87; x < 88; x += 0.137) {
    const double expected = std::exp(static_cast<double>(static_cast<float>(x)));
    EXPECT_NEAR(FastExp(static_cast<float>(x)) / expected, 1, 5e-7) << x;
  }
  EXPECT_EQ(FastExp(-100), 0);
  EXPECT_EQ(FastExp(0), 1);
}

}  // namespace
}  // namespace attune
