#include "server/model/kernels/packed_weight.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "server/model/kernels/packed_rows.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

constexpr int64_t kRows = 75, kColumns = 96;

// Random blocks whose scales are small half-precision numbers (0.0625 to 0.12).
std::string RandomBlocks(GgmlType type, int64_t elements) {
  std::mt19937 random(19);
  const int64_t block = GgmlBlockBytes(type), blocks = elements / GgmlBlockElements(type);
  const int64_t scales = type == GgmlType::kQ4_1 ? 2 : 1;
  std::string bytes;
  for (int64_t i = 0; i < blocks; ++i) {
    for (int64_t s = 0; s < scales; ++s) {
      const uint16_t half = static_cast<uint16_t>(0x2c00 + random() % 1024);
      bytes.append(reinterpret_cast<const char*>(&half), 2);
    }
    for (int64_t b = 2 * scales; b < block; ++b) bytes += static_cast<char>(random());
  }
  return bytes;
}

class PackedWeightTest : public ::testing::TestWithParam<GgmlType> {
 protected:
  void SetUp() override {
    if (!PackedWeight::Supports(GetParam(), kColumns)) GTEST_SKIP() << "no packed products on this CPU";
    at::manual_seed(23);
  }
};

TEST_P(PackedWeightTest, MultipliesAsTheExpandedMatrixDoes) {
  const std::string bytes = RandomBlocks(GetParam(), kRows * kColumns);
  at::Tensor dense = at::empty({kRows, kColumns}, at::kFloat);
  ASSERT_TRUE(Dequantize(GetParam(), bytes, dense.numel(), dense.mutable_data_ptr<float>()).ok());
  PackedWeight packed(GetParam(), kColumns);
  const size_t cut = bytes.size() / kRows * 30;  // rows may come in parts
  packed.AppendRows(absl::string_view(bytes).substr(0, cut));
  packed.AppendRows(absl::string_view(bytes).substr(cut));
  ASSERT_EQ(packed.rows(), kRows);
  for (int64_t tokens : {1, 2, 3, 4, 5, 8, 15, 16}) {
    const at::Tensor x = at::randn({tokens, kColumns});
    EXPECT_TRUE(Near(packed.Multiply(x), at::mm(x.to(at::kDouble), dense.to(at::kDouble).t()), 1e-5))
        << tokens << " tokens";
  }
}

// Both kinds of inner loop, where the CPU has both.
TEST_P(PackedWeightTest, EveryKindOfCpuComputesTheSame) {
  if (!HasAvx512()) GTEST_SKIP() << "no AVX-512";
  const std::string bytes = RandomBlocks(GetParam(), kRows * kColumns);
  const at::Tensor x = at::randn({13, kColumns});
  at::Tensor y[2];
  for (int i = 0; i < 2; ++i) {
    y[i] = at::zeros({13, kRows});
    const PackedProduct product{GetParam(), reinterpret_cast<const uint8_t*>(bytes.data()),
                                static_cast<int64_t>(bytes.size()) / kRows, kRows, kColumns, x.const_data_ptr<float>(),
                                13, y[i].mutable_data_ptr<float>()};
    i == 0 ? MultiplyPackedRowsAvx2(product, 3, 70) : MultiplyPackedRowsAvx512(product, 3, 70);
  }
  EXPECT_TRUE(Near(y[0], y[1].to(at::kDouble), 1e-5));
  EXPECT_EQ(y[1].select(1, 2).abs().max().item<float>(), 0) << "rows that were not asked for";
  EXPECT_NE(y[1].select(1, 69).abs().max().item<float>(), 0);
}

TEST_P(PackedWeightTest, InBfloat16ItMultipliesAsTheDenseProductDoes) {
  const std::string bytes = RandomBlocks(GetParam(), kRows * kColumns);
  at::Tensor dense = at::empty({kRows, kColumns}, at::kFloat);
  ASSERT_TRUE(Dequantize(GetParam(), bytes, dense.numel(), dense.mutable_data_ptr<float>()).ok());
  PackedWeight packed(GetParam(), kColumns);
  packed.AppendRows(bytes);
  for (int64_t tokens = 1; tokens <= PackedWeight::MaxBf16Tokens(); ++tokens) {
    const at::Tensor x = at::randn({tokens, kColumns});
    const bool is_rounded = tokens > PackedWeight::kMaxExactTokens;
    const auto rounded = [&](const at::Tensor& t) { return (is_rounded ? t.to(at::kBFloat16) : t).to(at::kDouble); };
    EXPECT_TRUE(Near(packed.MultiplyBf16(x), at::mm(rounded(x), rounded(dense).t()), 1e-5)) << tokens << " tokens";
  }
}

TEST(PackedWeightQuantizeTest, EachWeightIsTheNearestOfItsBlock) {
  if (!PackedWeight::Supports(GgmlType::kQ4_1, 96)) GTEST_SKIP() << "no packed products on this CPU";
  at::manual_seed(3);
  at::Tensor w = at::randn({40, 96}) * at::rand({40, 1});
  w[7].zero_();
  w[8].fill_(0.25);
  for (GgmlType type : {GgmlType::kQ8_0, GgmlType::kQ4_1}) {
    const auto packed = PackedWeight::Quantize(w, type);
    ASSERT_EQ(packed->rows(), 40);
    // The matrix itself, one column at a time.
    const at::Tensor rounded = packed->Multiply(at::eye(96).narrow(0, 0, 96)).t();
    const at::Tensor blocks = w.view({-1, 32}), difference = (rounded.reshape({-1, 32}) - blocks).abs();
    const at::Tensor step =
        type == GgmlType::kQ8_0 ? blocks.abs().amax(1, true) / 127 : (blocks.amax(1, true) - blocks.amin(1, true)) / 15;
    // Half a step, and what rounding the step and the offset to half precision adds.
    const at::Tensor allowed = step * 0.5 + blocks.abs().amax(1, true) * 2e-3 + 1e-7;
    EXPECT_TRUE((difference <= allowed).all().item<bool>()) << (difference / allowed).max().item<float>();
    EXPECT_EQ(rounded[7].abs().max().item<float>(), 0);
    EXPECT_NEAR(rounded[8].mean().item<float>(), 0.25, 1e-3);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedWeightTest,
                         ::testing::Values(GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ8_0));

TEST(PackedWeightSupportsTest, RefusesWhatItHasNoProductFor) {
  EXPECT_FALSE(PackedWeight::Supports(GgmlType::kF32, 96));
  EXPECT_FALSE(PackedWeight::Supports(GgmlType::kQ6_K, 256));
  EXPECT_FALSE(PackedWeight::Supports(GgmlType::kQ4_0, 95));
}

}  // namespace
}  // namespace attune
