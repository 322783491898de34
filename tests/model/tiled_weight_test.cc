#include "server/model/kernels/tiled_weight.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "server/model/weights/gguf.h"
#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;
using cuda::TileCodes;

// The header's layout, read value by value.
double ValueAt(const TiledWeight& w, int64_t row, int64_t column) {
  const int64_t tile = row / 16, upper = row / 8 % 2, g = row % 8;
  const int64_t place = tile * (w.columns / 64) + column / 64, half = column % 64 / 32,
                t = column % 32 / 8, k = column % 8;
  const auto* bytes = w.data.const_data_ptr<uint8_t>();
  const auto* scales = w.scales.const_data_ptr<at::BFloat16>();
  const int64_t lane = 4 * g + t, scale_at = ((place * 8 + g) * 2 + half) * 2 + upper;
  if (w.codes == TileCodes::kInt4) {
    const int64_t nibble = k / 2 + 4 * (k % 2);
    const uint8_t byte = bytes[place * 512 + lane * 16 + upper * 8 + half * 4 + nibble / 2];
    const int code = byte >> (4 * (nibble % 2)) & 15;
    return static_cast<double>(scales[2 * scale_at]) * code + static_cast<double>(scales[2 * scale_at + 1]);
  }
  static constexpr int kPlaces[] = {0, 2, 1, 3};
  const uint8_t byte = bytes[place * 1024 + upper * 512 + lane * 16 + half * 8 + k / 4 * 4 + kPlaces[k % 4]];
  if (w.codes == TileCodes::kInt8) {
    return static_cast<double>(scales[scale_at]) * (byte & 127) * (byte & 128 ? -1 : 1);
  }
  const double code = at::Float8_e4m3fn(byte, at::Float8_e4m3fn::from_bits());
  return code * static_cast<double>(scales[scale_at]) / std::ldexp(1.0, 120);
}

Tensor ValuesOf(const TiledWeight& w) {
  Tensor values = at::empty({w.rows, w.columns}, at::kFloat);
  auto out = values.accessor<float, 2>();
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t column = 0; column < w.columns; ++column) out[row][column] = static_cast<float>(ValueAt(w, row, column));
  }
  return values;
}

const char* NameOf(TileCodes codes) {
  return codes == TileCodes::kInt8 ? "Int8" : codes == TileCodes::kFp8 ? "Fp8" : codes == TileCodes::kInt4 ? "Int4" : "Bf16";
}

class TiledWeightTest : public ::testing::TestWithParam<TileCodes> {
 protected:
  void SetUp() override { at::manual_seed(3); }
};

// Half a code's distance at the most, whatever the block's scale.
TEST_P(TiledWeightTest, EveryValueIsNearItsOwn) {
  const Tensor w = at::randn({48, 192}) * at::rand({48, 1}) * 2 + 0.1;
  const TiledWeight tiled = MakeTiledWeight(w, GetParam());
  const Tensor blocks = w.view({48, 6, 32}), found = ValuesOf(tiled).view({48, 6, 32});
  const Tensor error = (found - blocks).abs();
  const Tensor most = blocks.abs().amax(2, true), range = blocks.amax(2, true) - blocks.amin(2, true);
  Tensor allowed;
  switch (GetParam()) {
    case TileCodes::kInt8: allowed = most / 127 * 0.51; break;
    case TileCodes::kFp8: allowed = blocks.abs() / 16 * 1.01 + most / 448 / 512; break;  // three bits of mantissa
    // Of scale and least value bf16's rounding besides.
    default: allowed = range / 15 * 0.51 + most / 128;
  }
  // Scales that were rounded down leave the largest value out of reach by as much.
  EXPECT_TRUE(((error - allowed - most / 256) <= 0).all().item<bool>()) << (error - allowed).max();
  EXPECT_EQ(tiled.bytes(), TiledWeight::BytesFor(GetParam(), 48, 192));
}

TEST_P(TiledWeightTest, ZerosAreExact) {
  EXPECT_TRUE(at::equal(ValuesOf(MakeTiledWeight(at::zeros({16, 64}), GetParam())), at::zeros({16, 64})));
}

// One value after the other: none lies in another's place.
TEST_P(TiledWeightTest, EachValueHasItsPlace) {
  Tensor w = at::arange(16 * 128, at::kFloat).view({16, 128});
  w = at::where(w.remainder(7) == 3, at::ones_like(w), at::zeros_like(w));
  EXPECT_TRUE(Near(ValuesOf(MakeTiledWeight(w, GetParam())), w, 0.005));
}

INSTANTIATE_TEST_SUITE_P(Formats, TiledWeightTest, ::testing::Values(TileCodes::kInt8, TileCodes::kFp8, TileCodes::kInt4),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

// The file's own codes, so that only scales and least values are rounded.
TEST(TiledQ4Test, GgufBlocksAreKept) {
  at::manual_seed(4);
  for (const bool is_q4_1 : {false, true}) {
    const int64_t head = is_q4_1 ? 4 : 2;
    Tensor bytes = at::randint(0, 256, {16, 4, head + 16}, at::kByte);
    const Tensor halves = (at::rand({16, 4, head / 2}) * 0.1 - (is_q4_1 ? 0.05 : 0)).to(at::kHalf);
    bytes.narrow(2, 0, head).copy_(halves.view(at::kByte));
    const Tensor rows = bytes.view({16, -1}).contiguous();
    const GgmlType type = is_q4_1 ? GgmlType::kQ4_1 : GgmlType::kQ4_0;
    Tensor expected = at::empty({16, 128}, at::kFloat);
    const absl::string_view text(reinterpret_cast<const char*>(rows.const_data_ptr<uint8_t>()), rows.nbytes());
    ASSERT_TRUE(Dequantize(type, text, expected.numel(), expected.mutable_data_ptr<float>()).ok());
    EXPECT_TRUE(Near(ValuesOf(TileQ4Rows(rows, is_q4_1)), expected, 0.006)) << is_q4_1;
  }
}

constexpr cuda::TiledSplit kSplits[] = {cuda::TiledSplit::kBest, cuda::TiledSplit::kColumns, cuda::TiledSplit::kRows};

class GpuTiledProductTest : public ::testing::TestWithParam<TileCodes> {
 protected:
  void SetUp() override {
    if (!FindGpu(ComputeTarget::Type::kBfloat16)) GTEST_SKIP() << "no GPU";
    at::manual_seed(3);
  }
  // x W^T by the kernel, into the middle of a wider matrix.
  static Tensor Multiply(const Tensor& x_TI, const Tensor& w_OI, const TiledWeight* tiled, cuda::TiledSplit split) {
    const Tensor wide = at::full({x_TI.size(0), w_OI.size(0) + 16}, 7, x_TI.options());
    const Tensor y = wide.narrow(1, 8, w_OI.size(0));
    if (tiled) {
      MultiplyTiled(x_TI, *tiled, y, {.split = split});
    } else {
      MultiplyFewRows(x_TI, w_OI, y, {.split = split});
    }
    EXPECT_TRUE((wide.narrow(1, 0, 8) == 7).all().item<bool>());
    EXPECT_TRUE((wide.narrow(1, w_OI.size(0) + 8, 8) == 7).all().item<bool>());
    return y;
  }
};

// Each of the kernel's sizes, and beyond the largest; an odd number of row tiles.
TEST_P(GpuTiledProductTest, IsTheProductOfTheTilesValues) {
  const bool is_dense = GetParam() == TileCodes::kBf16;
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{48, 64}, {176, 576}, {2560, 2048}}) {
    const Tensor w = (at::randn({outputs, inputs}) * 0.05).to(at::kBFloat16).to(at::kCUDA);
    std::optional<TiledWeight> tiled;
    if (!is_dense) tiled = MakeTiledWeight(w, GetParam());
    Tensor values = w.to(at::kFloat);
    if (tiled) {
      const TiledWeight on_host = MakeTiledWeight(w.cpu(), GetParam());
      EXPECT_TRUE(at::equal(on_host.data, tiled->data.cpu()));
      values = ValuesOf(on_host).to(at::kBFloat16).to(at::kFloat).to(at::kCUDA);
    }
    for (const int64_t tokens : {1, 7, 8, 9, 16, 31, 32, 33, 64, 65, 130}) {
      const Tensor x = at::randn({tokens, inputs + 8}).to(at::kBFloat16).to(at::kCUDA).narrow(1, 0, inputs);
      const Tensor expected = at::mm(x.to(at::kDouble), values.t().to(at::kDouble));
      for (const cuda::TiledSplit split : kSplits) {
        EXPECT_TRUE(Near(Multiply(x, w, tiled ? &*tiled : nullptr, split), expected, 0.005))
            << outputs << " x " << inputs << ", " << tokens << " tokens, split " << static_cast<int>(split);
      }
    }
  }
}

TEST_P(GpuTiledProductTest, ARowIsTheSameInEveryBatch) {
  const Tensor w = (at::randn({320, 1536}) * 0.05).to(at::kBFloat16).to(at::kCUDA);
  std::optional<TiledWeight> tiled;
  if (GetParam() != TileCodes::kBf16) tiled = MakeTiledWeight(w, GetParam());
  const Tensor x = at::randn({150, 1536}).to(at::kBFloat16).to(at::kCUDA);
  for (const cuda::TiledSplit split : {cuda::TiledSplit::kColumns, cuda::TiledSplit::kRows}) {
    const Tensor all = Multiply(x, w, tiled ? &*tiled : nullptr, split);
    for (const int64_t count : {1, 5, 16, 30, 64, 100}) {
      for (const int64_t first : {0, 11, 50}) {
        const Tensor part = Multiply(x.narrow(0, first, count), w, tiled ? &*tiled : nullptr, split);
        EXPECT_TRUE(at::equal(part, all.narrow(0, first, count))) << count << " rows from " << first;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GpuTiledProductTest,
                         ::testing::Values(TileCodes::kBf16, TileCodes::kInt8, TileCodes::kFp8, TileCodes::kInt4),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

}  // namespace
}  // namespace attune
