#include "server/model/kernels/product_choice.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include "server/model/kernels/blas_product.h"
#include "server/model/kernels/lt_product.h"
#include "server/model/kernels/matmul.h"
#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;

TEST(ProductChoiceTest, HoldsForTheShapeAndTokensNearTheMeasured) {
  const ProductShape measured = {ProductKind::kForward, 11264, 2048, 16384};
  ASSERT_TRUE(MeasuredKernel(measured).has_value());
  for (int64_t tokens : {8193, 12345, 32767}) {
    EXPECT_EQ(MeasuredKernel({measured.kind, measured.outputs, measured.inputs, tokens}), MeasuredKernel(measured)) << tokens;
  }
  for (int64_t tokens : {0, 1, 8192, 32768}) {
    EXPECT_FALSE(MeasuredKernel({measured.kind, measured.outputs, measured.inputs, tokens})) << tokens;
  }
}

TEST(ProductChoiceTest, LeavesOtherShapesToCublas) {
  EXPECT_FALSE(MeasuredKernel({ProductKind::kForward, 2048, 11264, 16384}));
  EXPECT_FALSE(MeasuredKernel({ProductKind::kForward, 2048, 2048, 16384}));
  EXPECT_FALSE(MeasuredKernel({ProductKind::kInputGradient, 11264, 2048, 16384}));
}

// On a GPU: the kernels give the product, written over or added to, as wide as the others.
class GpuChosenProductTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!FindGpu()) GTEST_SKIP() << "no GPU";
    at::manual_seed(7);
  }
  static Tensor Random(int64_t rows, int64_t columns) {
    return at::randn({rows, columns}, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
  }
  static Tensor Exact(const Tensor& x) { return x.to(at::kFloat); }
};

TEST_F(GpuChosenProductTest, ForwardAndGradients) {
  struct Case {
    ProductShape shape;
    As a_as, b_as;
  };
  for (const Case& one : {Case{{ProductKind::kForward, 3072, 576, 20000}, As::kIs, As::kTransposed},
                          Case{{ProductKind::kForward, 960, 576, 32768}, As::kIs, As::kTransposed},
                          Case{{ProductKind::kForward, 11264, 2048, 8200}, As::kIs, As::kTransposed},
                          Case{{ProductKind::kInputGradient, 576, 1536, 20000}, As::kIs, As::kIs},
                          Case{{ProductKind::kInputGradient, 4096, 14336, 4100}, As::kIs, As::kIs}}) {
    ASSERT_TRUE(MeasuredKernel(one.shape).has_value());
    const auto [kind, outputs, inputs, tokens] = one.shape;
    const Tensor x = Random(tokens, one.b_as == As::kTransposed ? inputs : outputs), w = Random(outputs, inputs);
    const Tensor y = MatMul(x, one.a_as, w, one.b_as);
    const Tensor expected = at::mm(Exact(x), one.b_as == As::kTransposed ? Exact(w).t() : Exact(w));
    EXPECT_TRUE(Near(y, expected, 0.01)) << outputs << " x " << inputs;
    MatMul(x, one.a_as, w, one.b_as, -1, 1, y);
    EXPECT_LT(y.abs().max().item<float>(), 0.02 * expected.abs().max().item<float>()) << outputs << " x " << inputs;
  }
}

// Not only does cuBLAS compute the product: it has the kernel, and takes operands within a buffer.
TEST_F(GpuChosenProductTest, TheKernelsAreThere) {
  if (at::cuda::getCurrentDeviceProperties()->major != 9) GTEST_SKIP() << "no Hopper";
  for (const auto& [shape, kernel] : MeasuredKernels()) {
    const auto [kind, o, i, t] = shape;
    const Tensor flat = Random(1, 8 + o * i).squeeze(0), w = flat.narrow(0, 8, o * i).view({o, i});
    const Tensor x = Random(t, i), y = Random(t, o), dw = at::empty({o, i}, x.options().dtype(at::kFloat));
    EXPECT_TRUE(MultiplyBy(kernel, BlasProductOf(kind, {x, y, w, dw}))) << static_cast<int>(kind) << ": " << o << " x " << i;
  }
  at::cuda::getCurrentCUDAStream().synchronize();
  const Tensor x = Random(1, 1 + 16383 * 2048).squeeze(0).narrow(0, 1, 16383 * 2048).view({16383, 2048});
  const Tensor w = Random(11264, 2048), y = Random(16383, 11264);
  EXPECT_FALSE(MultiplyBy({201, 5}, BlasProductOf(ProductKind::kForward, {x, y, w, {}})))
      << "an operand that lies on two bytes";
}

TEST_F(GpuChosenProductTest, WeightGradientsAddUpInFloat) {
  constexpr int64_t kTokens = 16384, kOutputs = 2048, kInputs = 5632;
  ASSERT_TRUE(MeasuredKernel({ProductKind::kWeightGradient, kOutputs, kInputs, kTokens}).has_value());
  const Tensor dy = Random(kTokens, kOutputs), x = Random(kTokens, kInputs);
  const Tensor expected = at::mm(Exact(dy).t(), Exact(x));
  Tensor dw = at::full({kOutputs, kInputs}, 3.0, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
  MatMul(dy, As::kTransposed, x, As::kIs, 1, 0, dw);
  EXPECT_TRUE(Near(dw, expected, 1e-3));
  MatMul(dy, As::kTransposed, x, As::kIs, 0.5, 1, dw);
  EXPECT_TRUE(Near(dw, expected * 1.5, 1e-3));
}

}  // namespace
}  // namespace attune
