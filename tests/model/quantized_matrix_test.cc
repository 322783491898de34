#include "server/model/kernels/quantized_matrix.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;
using cuda::Codes;

struct QuantizedCase {
  const char* name;
  Codes codes;
  bool gpu;
};

class QuantizedMatrixTest : public ::testing::TestWithParam<QuantizedCase> {
 protected:
  void SetUp() override {
    if (GetParam().gpu && !FindGpu()) GTEST_SKIP() << "no GPU";
    at::manual_seed(8);
  }
  at::Device Device() const { return GetParam().gpu ? at::kCUDA : at::kCPU; }
};

// Every value is the nearest of what its block can represent: brute force over all codes.
TEST_P(QuantizedMatrixTest, GivesTheNearestRepresentableValues) {
  const Tensor w = at::randn({6, 96}) * at::rand({6, 1}) * 3;
  const QuantizedMatrix matrix = Quantize(w, GetParam().codes, Device());
  const Tensor actual = Dequantize(matrix, at::kFloat).cpu();
  ASSERT_EQ(actual.sizes(), w.sizes());
  const bool is_int8 = GetParam().codes == Codes::kInt8;
  const Tensor levels = is_int8 ? at::arange(-127, 128, at::kFloat) / 127
                                : at::tensor(at::ArrayRef<float>(cuda::kNf4Levels, 16), at::kFloat);
  const Tensor blocks = w.reshape({-1, 64});
  const Tensor scales = blocks.abs().amax(1, true);
  const Tensor candidates = scales.unsqueeze(2) * levels.view({1, 1, -1});
  const Tensor nearest = (blocks.unsqueeze(2) - candidates).abs().amin(2);
  EXPECT_TRUE(Near((actual.reshape({-1, 64}) - blocks).abs(), nearest, 1e-4));
  EXPECT_LT((actual - w).norm().item<double>(), (is_int8 ? 0.01 : 0.12) * w.norm().item<double>());
}

// More blocks than a piece has.
TEST_P(QuantizedMatrixTest, LargeMatricesAreTheirPieces) {
  const Tensor w = at::randn({130, 65536});
  const Tensor whole = Dequantize(Quantize(w, GetParam().codes, Device()), at::kBFloat16);
  const Tensor tail = Dequantize(Quantize(w.narrow(0, 127, 3), GetParam().codes, Device()), at::kBFloat16);
  EXPECT_TRUE(at::equal(whole.narrow(0, 127, 3), tail));
}

TEST_P(QuantizedMatrixTest, ZerosAndScalesAreExact) {
  Tensor w = at::zeros({2, 64});
  w[0][5] = -2.5;
  const Tensor actual = Dequantize(Quantize(w, GetParam().codes, Device()), at::kFloat).cpu();
  EXPECT_TRUE(at::equal(actual, w));
}

TEST_P(QuantizedMatrixTest, InBfloat16RoundsTheSameValues) {
  const QuantizedMatrix matrix = Quantize(at::randn({4, 160}), GetParam().codes, Device());
  EXPECT_TRUE(at::equal(Dequantize(matrix, at::kBFloat16), Dequantize(matrix, at::kFloat).to(at::kBFloat16)));
  // By way of ATen, as where there are no loops and no CUDA kernels.
  EXPECT_TRUE(Near(Dequantize(matrix, at::kDouble), Dequantize(matrix, at::kFloat), 1e-6));
  EXPECT_EQ(matrix.bytes(), QuantizedMatrix::BytesFor(GetParam().codes, 640));
  EXPECT_EQ(matrix.bytes(), (GetParam().codes == Codes::kInt8 ? 640 : 320) + 40);
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedMatrixTest,
                         ::testing::Values(QuantizedCase{"Int8", Codes::kInt8, false},
                                           QuantizedCase{"Nf4", Codes::kNf4, false},
                                           QuantizedCase{"GpuInt8", Codes::kInt8, true},
                                           QuantizedCase{"GpuNf4", Codes::kNf4, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace attune
