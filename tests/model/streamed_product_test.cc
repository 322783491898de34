#include "server/model/kernels/streamed_product.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;

class GpuStreamedProductTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!FindGpu(ComputeTarget::Type::kBfloat16)) GTEST_SKIP() << "no GPU";
    if (!CanStream(at::empty({64, 64}, at::TensorOptions(at::kBFloat16).device(at::kCUDA)))) GTEST_SKIP() << "none from Hopper on";
    at::manual_seed(3);
  }
  static Tensor Random(at::IntArrayRef sizes, double scale = 1) { return (at::randn(sizes) * scale).to(at::kBFloat16).to(at::kCUDA); }
  // x W^T into the middle of a wider matrix with a row more.
  static Tensor Multiply(const Tensor& x_TI, const Tensor& w_OI, const StreamedOptions& options = {}) {
    const Tensor wide = at::full({x_TI.size(0) + 1, w_OI.size(0) + 16}, 7, x_TI.options());
    const Tensor y = wide.narrow(0, 0, x_TI.size(0)).narrow(1, 8, w_OI.size(0));
    MultiplyStreamed(x_TI, w_OI, y, options);
    EXPECT_TRUE((wide.narrow(1, 0, 8) == 7).all().item<bool>());
    EXPECT_TRUE((wide.narrow(1, w_OI.size(0) + 8, 8) == 7).all().item<bool>());
    EXPECT_TRUE((wide.select(0, x_TI.size(0)) == 7).all().item<bool>());
    return y;
  }
};

// Rows that fill no block, one piece of columns, more pieces than stages, numbers of pieces that no split divides.
TEST_F(GpuStreamedProductTest, IsTheProduct) {
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{2, 64}, {62, 128}, {320, 576}, {2560, 2048}, {1000, 5632}, {33000, 192}}) {
    const Tensor w = Random({outputs, inputs}, 0.05);
    for (const int64_t tokens : {1, 7, 8, 9, 15, 16, 17, 31, 32}) {
      const Tensor x = Random({tokens, inputs + 8}).narrow(1, 0, inputs);
      EXPECT_TRUE(Near(Multiply(x, w), at::mm(x.to(at::kDouble), w.t().to(at::kDouble)), 0.005)) << outputs << " x " << inputs << ", " << tokens;
    }
  }
}

TEST_F(GpuStreamedProductTest, EachCutGivesTheProduct) {
  const Tensor w = Random({1000, 1344}, 0.05), x = Random({32, 1344});
  const Tensor expected = at::mm(x.to(at::kDouble), w.t().to(at::kDouble));
  for (const int split : {1, 2, 4, 8}) {
    for (const int row_tiles : {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16}) {
      for (const int64_t tokens : {5, 32}) {
        EXPECT_TRUE(Near(Multiply(x.narrow(0, 0, tokens), w, {.cut = {row_tiles, split}}), expected.narrow(0, 0, tokens), 0.005))
            << row_tiles << " tiles, " << split << " parts, " << tokens << " tokens";
      }
    }
  }
}

// Nor does a token that is no number reach another.
TEST_F(GpuStreamedProductTest, ARowIsTheSameInEveryBatch) {
  const Tensor w = Random({320, 1536}, 0.05), x = Random({32, 1536});
  const StreamedOptions options{.cut = {4, 4}};
  const Tensor all = Multiply(x, w, options);
  for (const int64_t count : {1, 5, 16, 17, 30}) {
    for (const int64_t first : {0, 2}) {
      EXPECT_TRUE(at::equal(Multiply(x.narrow(0, first, count), w, options), all.narrow(0, first, count))) << count << " rows from " << first;
    }
  }
  const Tensor other = x.clone();
  other.select(0, 3).fill_(std::numeric_limits<float>::quiet_NaN());
  const Tensor beside = Multiply(other, w, options);
  EXPECT_TRUE(beside.select(0, 3).isnan().all().item<bool>());
  EXPECT_TRUE(at::equal(beside.narrow(0, 0, 3), all.narrow(0, 0, 3)));
  EXPECT_TRUE(at::equal(beside.narrow(0, 4, 28), all.narrow(0, 4, 28)));
}

TEST_F(GpuStreamedProductTest, WhatItCannotDoIsAnError) {
  const Tensor w = Random({64, 128}), y = at::zeros_like(Random({40, 64}));
  EXPECT_ANY_THROW(MultiplyStreamed(Random({33, 128}), w, y.narrow(0, 0, 33)));
  EXPECT_ANY_THROW(Multiply(Random({8, 128}), w, {.cut = {13, 1}}));
  EXPECT_ANY_THROW(Multiply(Random({8, 128}), w, {.cut = {4, 4}}));  // two pieces of columns
  EXPECT_ANY_THROW(MultiplyStreamed(Random({8, 128}), w, y.narrow(0, 0, 8).view({-1}).narrow(0, 1, 8 * 63).view({8, 63})));
  EXPECT_FALSE(CanStream(Random({63, 128})));
  EXPECT_FALSE(CanStream(Random({64, 96})));
}

// A chain in which each product begins while the one that makes its input still runs.
TEST_F(GpuStreamedProductTest, WaitsForItsInput) {
  constexpr int64_t kWidth = 2048, kLayers = 100;
  const Tensor w = Random({kWidth, kWidth}, 0.022), x = Random({32, kWidth});
  auto run = [&](const StreamedOptions& options) {
    std::vector<Tensor> outputs = {x};
    for (int64_t i = 0; i < kLayers; ++i) outputs.push_back(at::zeros_like(x));
    for (int64_t i = 0; i < kLayers; ++i) MultiplyStreamed(outputs[i], w, outputs[i + 1], options);
    return outputs.back();
  };
  const Tensor expected = run({});
  EXPECT_TRUE(at::isfinite(expected).all().item<bool>());
  EXPECT_GT(expected.abs().max().item<float>(), 0);
  for (const cuda::Next next : {cuda::Next::kAtOnce, cuda::Next::kWithInput}) {
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(at::equal(run({.start = cuda::Start::kEarly, .next = next}), expected)) << "run " << i;
  }
}

}  // namespace
}  // namespace attune
