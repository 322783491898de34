#include "server/model/kernels/embedding_noise.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "server/model/kernels/cuda/launch.h"
#include "tests/testing/gpu.h"

namespace attune {
namespace {

using at::Tensor;

constexpr int64_t kColumns = 512;

// Sequences of 2 virtual tokens and 8, 1 and 0 others, one that is empty, and one of 50 without virtual tokens, as
// padding is.
struct Packed {
  Tensor ids_T, starts_int32;
};
Packed Make() {
  std::vector<int64_t> ids;
  std::vector<int32_t> starts = {0};
  for (int64_t length : {8, 1, 0}) {
    ids.insert(ids.end(), {-1, -2});
    ids.insert(ids.end(), length, 7);
    starts.push_back(static_cast<int32_t>(ids.size()));
  }
  starts.push_back(static_cast<int32_t>(ids.size()));
  ids.insert(ids.end(), 50, 0);
  starts.push_back(static_cast<int32_t>(ids.size()));
  return {at::tensor(ids, at::kLong), at::tensor(starts, at::kInt)};
}

Tensor Noise(const Packed& packed, int64_t seed, double alpha = 5, at::Device device = at::kCPU) {
  const Tensor x = at::zeros({packed.ids_T.size(0), kColumns}, at::TensorOptions(at::kFloat).device(device));
  AddEmbeddingNoise(x, packed.ids_T.to(device), packed.starts_int32.to(device), 2, alpha, {.value = seed});
  return x;
}

TEST(EmbeddingNoiseTest, IsUniformWithinItsBoundAndSkipsVirtualTokens) {
  const Packed packed = Make();
  const Tensor noise = Noise(packed, 3);
  EXPECT_EQ(noise.index({packed.ids_T.lt(0)}).abs().max().item<float>(), 0);
  auto expect_uniform = [&](int64_t begin, int64_t rows, double length) {
    const Tensor part = noise.narrow(0, begin, rows) * (std::sqrt(length * kColumns) / 5);
    EXPECT_LE(part.abs().max().item<double>(), 1 + 1e-6);
    EXPECT_GT(part.abs().max().item<double>(), 0.98);
    EXPECT_NEAR(part.mean().item<double>(), 0, 4 / std::sqrt(3.0 * static_cast<double>(part.numel())));
    EXPECT_NEAR(part.square().mean().item<double>(), 1.0 / 3, 0.05);
  };
  expect_uniform(2, 8, 8);
  expect_uniform(12, 1, 1);
  expect_uniform(15, 50, 48);  // the packed length less the virtual tokens that the others have
}

TEST(EmbeddingNoiseTest, FollowsItsSeed) {
  const Packed packed = Make();
  EXPECT_TRUE(at::equal(Noise(packed, 3), Noise(packed, 3)));
  EXPECT_FALSE(at::equal(Noise(packed, 3), Noise(packed, 4)));
  EXPECT_TRUE(at::allclose(Noise(packed, 3, 10), 2 * Noise(packed, 3, 5)));
}

TEST(EmbeddingNoiseTest, AddsToWhatIsThereInItsType) {
  const Packed packed = Make();
  const Tensor x = at::ones({packed.ids_T.size(0), kColumns}, at::kBFloat16);
  AddEmbeddingNoise(x, packed.ids_T, packed.starts_int32, 2, 5, {.value = 3});
  EXPECT_TRUE(at::equal(x, (1 + Noise(packed, 3)).to(at::kBFloat16)));
}

TEST(EmbeddingNoiseTest, GpuDrawsTheSame) {
  if (!FindGpu() || !cuda::Available()) GTEST_SKIP() << "no GPU";
  const Packed packed = Make();
  const Tensor expected = Noise(packed, 3), found = Noise(packed, 3, 5, at::kCUDA).cpu();
  EXPECT_TRUE(at::allclose(found, expected, 1e-6, 1e-9));
  const Tensor x = at::zeros({packed.ids_T.size(0), kColumns}, at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  AddEmbeddingNoise(x, packed.ids_T.cuda(), packed.starts_int32.cuda(), 2, 5,
                    {.on_device = at::tensor(int64_t{3}).cuda()});
  EXPECT_TRUE(at::allclose(x.cpu().to(at::kFloat), expected, 0.01, 1e-6));
}

}  // namespace
}  // namespace attune
