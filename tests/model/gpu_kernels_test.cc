// Every kernel on the GPU gives what it gives on the CPU, gradients included.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "server/model/kernels/cross_entropy.h"
#include "server/model/kernels/elementwise.h"
#include "server/model/kernels/lora_linear.h"
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
  // In fp32, and in bf16 to its accuracy.
  static void ExpectSameOnGpu(const Function& function, const Tensors& inputs) {
    Tensor shape;
    {
      at::NoGradGuard no_grad;
      shape = function(inputs);
    }
    const Tensor gradient = at::randn(shape.sizes());
    const OutputAndGradients cpu = RunWithGradients(function, inputs, gradient);
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-4}, std::pair{at::kBFloat16, 0.03}}) {
      Tensors moved;
      for (const Tensor& input : inputs) moved.push_back(input.to(at::kCUDA, type));
      const OutputAndGradients gpu = RunWithGradients(function, moved, gradient.to(at::kCUDA, type));
      EXPECT_TRUE(Near(gpu.output, cpu.output, tolerance)) << type;
      for (size_t i = 0; i < inputs.size(); ++i) {
        EXPECT_TRUE(Near(gpu.gradients[i], cpu.gradients[i], tolerance)) << type << ", gradient of input " << i;
      }
    }
  }
};

TEST_F(GpuKernelsTest, RmsNorm) {
  ExpectSameOnGpu([](const Tensors& in) { return RmsNorm(in[0], in[1], 1e-5); }, {at::randn({40, 96}), at::randn({96})});
}

TEST_F(GpuKernelsTest, SwiGlu) {
  ExpectSameOnGpu([](const Tensors& in) { return SwiGlu(in[0]); }, {at::randn({40, 96})});
}

TEST_F(GpuKernelsTest, LoraLinear) {
  const Tensor w = at::randn({64, 32}) * 0.2;
  ExpectSameOnGpu(
      [&](const Tensors& in) {
        return LoraLinear(in[0], w.to(in[0].options()), {{in[1], in[2], 0.5, 0}, {in[3], in[4], 2.0, 40}}, 0, 0);
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
  ExpectSameOnGpu(
      [&](const Tensors& in) {
        return LinearCrossEntropy(in[0], in[1], targets.to(in[0].device())).loss_sum.to(in[0].scalar_type()) / 300;
      },
      {at::randn({300, 16}), at::randn({37, 16})});
}

}  // namespace
}  // namespace attune
