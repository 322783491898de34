#include "server/tuning/host_store.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/testing/gpu.h"

namespace attune {
namespace {

class HostStoreTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!GetParam()) return;
    const std::optional<ComputeTarget> gpu = FindGpu();
    if (!gpu) GTEST_SKIP() << "no GPU";
    target_ = *gpu;
  }
  at::Tensor Numbers(int64_t rows, int64_t columns) const {
    return at::arange(rows * columns, at::TensorOptions(at::kFloat).device(GetParam() ? at::kCUDA : at::kCPU))
        .view({rows, columns});
  }
  ComputeTarget target_;
};

// Also of more bytes than a piece has, and with work on the stream that makes and overwrites what is saved.
TEST_P(HostStoreTest, GivesBackWhatWasSaved) {
  HostStore store(target_, 3);
  for (int round = 0; round < 2; ++round) {
    for (int64_t slot = 0; slot < 3; ++slot) {
      at::Tensor x = Numbers(3000 + slot, 9000) + slot;
      store.Save(slot, x);
    }
    store.Fetch(2);
    for (int64_t slot = 2; slot >= 0; --slot) {
      const at::Tensor x = store.Take(slot);
      if (slot > 0) store.Fetch(slot - 1);
      EXPECT_TRUE(at::equal(x, Numbers(3000 + slot, 9000) + slot)) << slot;
    }
  }
}

TEST_P(HostStoreTest, ForgetsWhatAFailedPassLeft) {
  HostStore store(target_, 2);
  store.Save(0, Numbers(4, 5));
  store.Save(1, Numbers(7, 5));
  store.Fetch(1);
  store.Reset();
  store.Save(0, Numbers(2, 3));
  EXPECT_TRUE(at::equal(store.Take(0), Numbers(2, 3)));
  store.Save(0, Numbers(6, 2));
  store.Save(0, Numbers(3, 2));
  EXPECT_TRUE(at::equal(store.Take(0), Numbers(3, 2)));
}

INSTANTIATE_TEST_SUITE_P(Devices, HostStoreTest, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Gpu" : "Cpu"); });

}  // namespace
}  // namespace attune
