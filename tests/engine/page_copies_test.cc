// Pages come back from the host as they were, whichever page they come back to.
#include "server/engine/page_copies.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "server/model/torch_target.h"
#include "tests/testing/gpu.h"

namespace attune {
namespace {

constexpr int64_t kLayers = 3, kPages = 320, kPageTokens = 16;

KvCache RandomCache(const at::TensorOptions& options) {
  KvCache cache = MakeKvCache(kLayers, kPages, kPageTokens, AttentionShape{4, 2, 8}, options);
  for (std::vector<at::Tensor>* stores : {&cache.keys, &cache.values}) {
    for (at::Tensor& store : *stores) store.normal_();
  }
  return cache;
}

at::Tensor PagesOf(const at::Tensor& store, const std::vector<int32_t>& pages) {
  const at::Tensor index = at::tensor(std::vector<int64_t>(pages.begin(), pages.end()), at::kLong);
  return store.reshape({kPages, -1}).cpu().index_select(0, index);
}

std::vector<int32_t> Range(int32_t first, int32_t count) {
  std::vector<int32_t> range(count);
  std::iota(range.begin(), range.end(), first);
  return range;
}

// More pages than go in one launch; slots of two pieces, in another order.
void CheckCopies(const at::TensorOptions& options) {
  const KvCache cache = RandomCache(options);
  ASSERT_TRUE(PageCopies::Serves(cache));
  PageCopies copies(&cache);
  EXPECT_EQ(copies.slot_bytes(), kLayers * 2 * kPageTokens * 2 * 8 * cache.keys[0].element_size());
  copies.Grow(100);
  copies.Grow(60);
  const std::vector<int32_t> from = Range(7, 150), to = Range(165, 150);
  std::vector<int32_t> slots = Range(10, 150);
  std::reverse(slots.begin(), slots.end());
  std::vector<at::Tensor> expected, others;
  for (const auto* stores : {&cache.keys, &cache.values}) {
    for (const at::Tensor& store : *stores) expected.push_back(PagesOf(store, from));
  }
  copies.CopyOut(from, slots);
  // Whoever has the pages now.
  for (const auto* stores : {&cache.keys, &cache.values}) {
    for (const at::Tensor& store : *stores) store.narrow(0, 0, 160 * kPageTokens).fill_(5);
  }
  for (const auto* stores : {&cache.keys, &cache.values}) {
    for (const at::Tensor& store : *stores) others.push_back(PagesOf(store, {0, 164, 315, 319}));
  }
  copies.CopyIn(to, slots);
  size_t i = 0;
  for (const auto* stores : {&cache.keys, &cache.values}) {
    for (const at::Tensor& store : *stores) {
      EXPECT_TRUE(at::equal(PagesOf(store, to), expected[i]));
      EXPECT_TRUE(at::equal(PagesOf(store, {0, 164, 315, 319}), others[i])) << "others' pages";
      ++i;
    }
  }
}

// Pages 0 to 149 go to 150 to 299 and the rest stays.
void CheckCopiesWithin(const at::TensorOptions& options) {
  const KvCache cache = RandomCache(options);
  PageCopies copies(&cache);
  std::vector<at::Tensor> before;
  for (const auto* stores : {&cache.keys, &cache.values}) {
    for (const at::Tensor& store : *stores) before.push_back(store.reshape({kPages, -1}).cpu());
  }
  std::vector<std::pair<int32_t, int32_t>> from_to;
  for (int32_t page = 0; page < 150; ++page) from_to.emplace_back(page, 299 - page);
  copies.CopyWithin(from_to);
  size_t i = 0;
  for (const auto* stores : {&cache.keys, &cache.values}) {
    for (const at::Tensor& store : *stores) {
      const at::Tensor after = store.reshape({kPages, -1}).cpu();
      EXPECT_TRUE(at::equal(after.narrow(0, 150, 150), before[i].narrow(0, 0, 150).flip(0)));
      EXPECT_TRUE(at::equal(after.narrow(0, 0, 150), before[i].narrow(0, 0, 150)));
      EXPECT_TRUE(at::equal(after.narrow(0, 300, 20), before[i].narrow(0, 300, 20)));
      ++i;
    }
  }
}

TEST(PageCopiesTest, PagesAreCopiedWithin) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) CheckCopiesWithin(at::TensorOptions(type));
}

TEST(PageCopiesTest, GpuPagesAreCopiedWithin) {
  if (!FindGpu()) GTEST_SKIP() << "no GPU";
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    CheckCopiesWithin(at::TensorOptions(type).device(at::kCUDA));
  }
}

TEST(PageCopiesTest, PagesComeBackAsTheyWere) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) CheckCopies(at::TensorOptions(type));
}

TEST(PageCopiesTest, GpuPagesComeBackAsTheyWere) {
  if (!FindGpu()) GTEST_SKIP() << "no GPU";
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    CheckCopies(at::TensorOptions(type).device(at::kCUDA));
  }
}

}  // namespace
}  // namespace attune
