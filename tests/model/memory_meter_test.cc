#include "server/model/memory_meter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "tests/testing/gpu.h"

namespace attune {
namespace {

constexpr int64_t kMiB = 1 << 20;

at::Tensor Megabytes(int64_t count) { return at::empty({count * kMiB}, at::kByte); }

TEST(MemoryMeterTest, CountsTheMostThatWasHeldAtOnce) {
  MemoryMeter meter{ComputeTarget()};
  const MemoryMeter::Scope scope(meter);
  at::Tensor kept = Megabytes(3);
  Megabytes(4);  // freed at once
  kept = Megabytes(2);  // beside the old one for a moment
  EXPECT_EQ(meter.peak_bytes(), 7 * kMiB);
}

TEST(MemoryMeterTest, WhatIsMadeOrFreedOutsideIsNotItsOwn) {
  const at::Tensor before = Megabytes(1);
  std::optional<at::Tensor> foreign = Megabytes(64);
  MemoryMeter meter{ComputeTarget()};
  {
    const MemoryMeter::Scope scope(meter);
    std::thread([] { Megabytes(32); }).join();
    foreign.reset();  // was never counted, so nothing is taken off
    Megabytes(5);
  }
  Megabytes(128);
  EXPECT_EQ(meter.peak_bytes(), 5 * kMiB);
}

TEST(MemoryMeterTest, AnInnerScopeTakesOver) {
  MemoryMeter outer{ComputeTarget()}, inner{ComputeTarget()};
  const MemoryMeter::Scope scope(outer);
  at::Tensor kept = Megabytes(2);
  {
    const MemoryMeter::Scope scope(inner);
    Megabytes(16);
  }
  const at::Tensor more = Megabytes(1);
  EXPECT_EQ(outer.peak_bytes(), 3 * kMiB);
  EXPECT_EQ(inner.peak_bytes(), 16 * kMiB);
  outer.CountBeside(4 * kMiB);
  EXPECT_EQ(outer.peak_bytes(), 7 * kMiB);
}

// What a job's backward pass makes is the job's, whichever thread makes it.
TEST(MemoryMeterTest, CountsWhatAutogradMakes) {
  const at::Tensor x = at::ones({kMiB / 4}, at::kFloat).requires_grad_();
  MemoryMeter meter{ComputeTarget()};
  const MemoryMeter::Scope scope(meter);
  (x * x).sum().backward();
  EXPECT_GE(meter.peak_bytes(), 2 * kMiB);  // the product, and x's gradient
  EXPECT_LE(meter.peak_bytes(), 8 * kMiB);
}

// There a thread of its own runs it, and the device's allocator reports.
TEST(MemoryMeterTest, GpuCountsWhatAutogradMakes) {
  const std::optional<ComputeTarget> gpu = FindGpu();
  if (!gpu) GTEST_SKIP() << "no GPU";
  const at::Tensor x = at::ones({16 * kMiB / 4}, at::TensorOptions(at::kFloat).device(at::kCUDA)).requires_grad_();
  MemoryMeter meter(*gpu);
  const MemoryMeter::Scope scope(meter);
  const at::Tensor y = (x * x).sum();
  const int64_t forward = meter.peak_bytes();
  EXPECT_GE(forward, 16 * kMiB);
  y.backward();
  EXPECT_GE(meter.peak_bytes(), forward + 15 * kMiB);  // x's gradient
}

}  // namespace
}  // namespace attune
