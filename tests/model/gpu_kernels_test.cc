// Every kernel on the GPU gives what its formula gives in fp64, gradients included.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "server/model/kernels/cross_entropy.h"
#include "server/model/kernels/elementwise.h"
#include "server/model/kernels/lora_linear.h"
#include "server/model/kernels/rows.h"
#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;
using Function = std::function<Tensor(const Tensors&)>;

class GpuKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!FindGpu()) GTEST_SKIP() << "no GPU";
    at::manual_seed(31);
  }
  // `formula` in fp64 on the CPU against `kernel` on the GPU: in fp32, and in bf16 to its accuracy.
  static void ExpectOnGpu(const Function& kernel, const Function& formula, const Tensors& inputs) {
    Tensors exact;
    for (const Tensor& input : inputs) exact.push_back(input.to(at::kDouble));
    Tensor shape;
    {
      at::NoGradGuard no_grad;
      shape = formula(exact);
    }
    const Tensor gradient = at::randn(shape.sizes());
    const OutputAndGradients expected = RunWithGradients(formula, exact, gradient.to(at::kDouble));
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 0.03}}) {
      Tensors moved;
      for (const Tensor& input : inputs) moved.push_back(input.to(at::kCUDA, type));
      const OutputAndGradients gpu = RunWithGradients(kernel, moved, gradient.to(at::kCUDA, type));
      EXPECT_TRUE(Near(gpu.output, expected.output, tolerance)) << type;
      for (size_t i = 0; i < inputs.size(); ++i) {
        EXPECT_TRUE(Near(gpu.gradients[i], expected.gradients[i], tolerance)) << type << ", gradient of input " << i;
      }
    }
  }
};

TEST_F(GpuKernelsTest, RmsNorm) {
  // Widths that vector loads divide, and one that they do not.
  for (const auto& [rows, width] : std::vector<std::pair<int64_t, int64_t>>{
           {40, 96}, {40, 2048}, {40, 50}, {40, 2050}, {2500, 96}, {2500, 33}}) {
    ExpectOnGpu([](const Tensors& in) { return RmsNorm(in[0], in[1], 1e-5); },
                [](const Tensors& in) { return in[0] * (in[0].square().mean(-1, true) + 1e-5).rsqrt() * in[1]; },
                {at::randn({rows, width}), at::randn({width})});
  }
}

TEST_F(GpuKernelsTest, GatedUnits) {
  for (int64_t width : {96, 1536, 50}) {
    ExpectOnGpu([](const Tensors& in) { return GatedUnit(in[0], Activation::kSilu); },
                [&](const Tensors& in) {
                  return at::silu(in[0].narrow(1, 0, width)) * in[0].narrow(1, width, width);
                },
                {at::randn({40, 2 * width})});
    ExpectOnGpu([](const Tensors& in) { return GatedUnit(in[0], Activation::kGeluTanh); },
                [&](const Tensors& in) {
                  return at::gelu(in[0].narrow(1, 0, width), "tanh") * in[0].narrow(1, width, width);
                },
                {at::randn({40, 2 * width})});
  }
}

TEST_F(GpuKernelsTest, LoraLinear) {
  const Tensor w = at::randn({64, 32}) * 0.2;
  ExpectOnGpu(
      [&](const Tensors& in) {
        return LoraLinear(in[0], w.to(in[0].options()), {{in[1], in[2], 0.5, 0}, {in[3], in[4], 2.0, 40}}, 0, 0);
      },
      [&](const Tensors& in) {
        const Tensor first = at::mm(at::mm(in[0], in[1].t()), in[2].t()) * 0.5;
        const Tensor second = at::mm(at::mm(in[0], in[3].t()), in[4].t()) * 2.0;
        return at::mm(in[0], w.to(at::kDouble).t()) + at::constant_pad_nd(first, {0, 24}) +
               at::constant_pad_nd(second, {40, 0});
      },
      {at::randn({30, 32}), at::randn({4, 32}) * 0.2, at::randn({40, 4}), at::randn({2, 32}) * 0.2, at::randn({24, 2})});
}

TEST_F(GpuKernelsTest, LoraDropoutUsesOneMaskInBothPasses) {
  const Tensor x = at::randn({64, 32}, at::kCUDA), w = at::zeros({16, 32}, at::kCUDA);
  Tensor a = at::randn({4, 32}, at::kCUDA).set_requires_grad(true);
  const Tensor b = at::randn({16, 4}, at::kCUDA).set_requires_grad(true);
  const Tensor y = LoraLinear(x, w, {{a, b, 1.0, 0}}, 0.5, 7);
  y.sum().backward();
  // y is linear in A: <A, dA> is y's sum exactly if both passes dropped the same elements.
  EXPECT_TRUE(Near((a.grad() * a.detach()).sum(), y.sum(), 1e-4));
}

TEST_F(GpuKernelsTest, DropoutFollowsItsSeedAndDropsItsShare) {
  const Tensor x = at::ones({1000, 100}, at::kCUDA);
  const Tensor y = DropoutWithSeed(x, 0.3, 17);
  EXPECT_TRUE(at::equal(y, DropoutWithSeed(x, 0.3, 17)));
  EXPECT_FALSE(at::equal(y, DropoutWithSeed(x, 0.3, 18)));
  EXPECT_NEAR(y.gt(0).to(at::kFloat).mean().item<double>(), 0.7, 0.01);
  EXPECT_NEAR(y.max().item<float>(), 1 / 0.7f, 1e-6);
}

TEST_F(GpuKernelsTest, CrossEntropy) {
  const Tensor targets = at::randint(0, 37, {300}, at::kLong);
  ExpectOnGpu(
      [&](const Tensors& in) {
        return LinearCrossEntropy(in[0], in[1], targets.to(in[0].device())).loss_sum.to(in[0].scalar_type()) / 300;
      },
      [&](const Tensors& in) {
        return -at::log_softmax(at::mm(in[0], in[1].t()), 1).gather(1, targets.unsqueeze(1)).sum() / 300;
      },
      {at::randn({300, 16}), at::randn({37, 16})});
  ExpectOnGpu(
      [&](const Tensors& in) {
        return LinearCrossEntropy(in[0], in[1], targets.to(in[0].device()), 3).loss_sum.to(in[0].scalar_type()) / 300;
      },
      [&](const Tensors& in) {
        const Tensor logits = at::tanh(at::mm(in[0], in[1].t()) / 3) * 3;
        return -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).sum() / 300;
      },
      {at::randn({300, 16}), at::randn({37, 16})});
}

TEST_F(GpuKernelsTest, RowsAreTakenAndPrefixesAddUp) {
  const PackedSequences sequences = PackSequences({0, 5, 7, 40}, at::kCUDA);
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-6}, std::pair{at::kBFloat16, 1e-6}}) {
    const Tensor x = at::randn({40, 96}, at::kCUDA).to(type), exact = x.to(at::kCPU, at::kDouble);
    const Tensor index = at::tensor({39, -1, 0, 7}, at::kLong);
    Tensor taken = exact.index_select(0, index.clamp_min(0));
    taken[1].zero_();
    EXPECT_TRUE(Near(TakeRows(x, index.to(at::kCUDA)), taken, 0)) << type;
    // The second sequence is shorter than the prefix.
    const Tensor start = at::randn({3, 96}), sum = start.to(at::kCUDA);
    AddPrefixRows(x, sequences, sum);
    Tensor expected = start.to(at::kDouble) + exact.narrow(0, 0, 3) + exact.narrow(0, 7, 3);
    expected.narrow(0, 0, 2).add_(exact.narrow(0, 5, 2));
    EXPECT_TRUE(Near(sum, expected, tolerance)) << type;
  }
}

}  // namespace
}  // namespace attune
