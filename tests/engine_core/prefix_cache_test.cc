#include "server/engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <vector>

#include "server/engine/batch_scheduler.h"

namespace attune {
namespace {

Sequence Tokens(std::vector<int32_t> tokens, uint64_t model = 1) {
  Sequence sequence;
  sequence.tokens = std::move(tokens);
  sequence.model = model;
  return sequence;
}

// As if it had been computed into pages of its own.
void Fill(Sequence* sequence, KvPages* pages) {
  while (static_cast<int64_t>(sequence->pages.size()) < pages->PagesFor(sequence->tokens.size())) {
    sequence->pages.push_back(*pages->Allocate());
  }
  sequence->computed = static_cast<int64_t>(sequence->tokens.size());
}

void End(Sequence* sequence, PrefixCache* cache, KvPages* pages) {
  cache->Put(sequence);
  for (int32_t page : sequence->pages) pages->Release(page);
  sequence->pages.clear();
}

TEST(PrefixCacheTest, FindsTheLongestKnownBeginningInFullPages) {
  KvPages pages(20, 2);
  PrefixCache cache(&pages);
  Sequence first = Tokens({1, 2, 3, 4, 5});
  Fill(&first, &pages);
  const std::vector<int32_t> own = first.pages;
  End(&first, &cache, &pages);
  EXPECT_EQ(cache.size(), 2);  // the third is not full
  EXPECT_EQ(pages.used(), 0);
  EXPECT_EQ(pages.idle(), 2);

  Sequence same = Tokens({1, 2, 3, 4, 9, 9});
  EXPECT_EQ(cache.Take(&same, 5), 4);
  EXPECT_EQ(same.pages, (std::vector<int32_t>{own[0], own[1]}));
  EXPECT_EQ(same.computed, 4);
  EXPECT_EQ(pages.used(), 2);

  Sequence shorter = Tokens({1, 2, 3, 4});
  EXPECT_EQ(cache.Take(&shorter, 3), 2) << "the last token must be computed";
  Sequence other = Tokens({1, 7, 3, 4});
  EXPECT_EQ(cache.Take(&other, 3), 0);
  Sequence tail = Tokens({3, 4, 3, 4});
  EXPECT_EQ(cache.Take(&tail, 3), 0) << "pages are known with all that comes before";
}

TEST(PrefixCacheTest, ModelsSeeNothingOfEachOther) {
  KvPages pages(20, 2);
  PrefixCache cache(&pages);
  Sequence first = Tokens({1, 2, 3, 4}, /*model=*/1);
  Fill(&first, &pages);
  End(&first, &cache, &pages);
  Sequence other = Tokens({1, 2, 3, 4, 5}, /*model=*/2);
  EXPECT_EQ(cache.Take(&other, 4), 0);
  // Virtual tokens of a soft prompt are tokens like any other.
  Sequence prompt = Tokens({-1, -2, 1, 2}, 3);
  Fill(&prompt, &pages);
  End(&prompt, &cache, &pages);
  Sequence again = Tokens({-1, -2, 1, 2, 6}, 3);
  EXPECT_EQ(cache.Take(&again, 4), 4);
}

TEST(PrefixCacheTest, TheOldestGoesFirstAndNoneInUse) {
  KvPages pages(4, 1);
  PrefixCache cache(&pages);
  Sequence a = Tokens({1, 2}), b = Tokens({1, 3}), c = Tokens({7});
  Fill(&a, &pages);
  End(&a, &cache, &pages);
  Fill(&c, &pages);
  End(&c, &cache, &pages);
  b.pages.clear();
  EXPECT_EQ(cache.Take(&b, 1), 1);
  Fill(&b, &pages);
  cache.Put(&b);  // 1 and 3 are in use; 2 is older than 7
  EXPECT_EQ(pages.free(), 0);
  cache.MakeRoom(1);
  Sequence probe = Tokens({7, 0});
  EXPECT_EQ(cache.Take(&probe, 1), 1) << "the younger one is still there";
  pages.Release(probe.pages[0]);
  Sequence gone = Tokens({1, 2, 0});
  EXPECT_EQ(cache.Take(&gone, 2), 1) << "the older one is not";
  pages.Release(gone.pages[0]);
  cache.MakeRoom(4);
  EXPECT_EQ(pages.free(), 2) << "what is in use stays";
  for (int32_t page : b.pages) pages.Release(page);
  cache.MakeRoom(4);
  EXPECT_EQ(pages.free(), 4);
  EXPECT_EQ(cache.size(), 0);
}

TEST(PrefixCacheTest, OnlyKnownTokensAreRemembered) {
  KvPages pages(10, 2);
  PrefixCache cache(&pages);
  Sequence running = Tokens({1, 2, 3});
  running.pages = {*pages.Allocate(), *pages.Allocate()};
  running.computed = 4;  // the fourth token was chosen on the device and is not known yet
  running.in_flight = 2;
  cache.Put(&running);
  EXPECT_EQ(cache.size(), 1);
}

TEST(PrefixCacheTest, TheSchedulerSharesAPromptThatStillRuns) {
  KvPages pages(20, 4);
  BatchScheduler scheduler(&pages, 4, 100, /*reuses_prefixes=*/true);
  Sequence first = Tokens({1, 1, 1, 1, 2, 2, 2, 2, 3}), second = Tokens({1, 1, 1, 1, 2, 2, 2, 2, 4, 5});
  scheduler.Add(&first);
  auto plan = scheduler.Next();
  for (const auto& item : plan.items) item.sequence->computed += item.tokens;
  first.tokens.push_back(1);
  scheduler.Add(&second);
  plan = scheduler.Next();
  ASSERT_EQ(plan.items.size(), 2u);
  EXPECT_EQ(plan.items[1].sequence, &second);
  EXPECT_EQ(plan.items[1].tokens, 2);
  EXPECT_EQ(second.computed, 8);
  EXPECT_EQ(scheduler.prefix_hits(), 8);
  EXPECT_EQ(scheduler.prefix_queries(), 19);
  scheduler.Remove(&first);
  scheduler.Remove(&second);
  EXPECT_EQ(pages.used(), 0);
}

}  // namespace
}  // namespace attune
