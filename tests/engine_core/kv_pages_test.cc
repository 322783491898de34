#include "server/engine/kv_pages.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace attune {
namespace {

TEST(KvPagesTest, CountsPagesOfTokens) {
  KvPages pages(4, 16);
  EXPECT_EQ(pages.PagesFor(0), 0);
  EXPECT_EQ(pages.PagesFor(1), 1);
  EXPECT_EQ(pages.PagesFor(16), 1);
  EXPECT_EQ(pages.PagesFor(17), 2);
}

TEST(KvPagesTest, GivesEachPageOnce) {
  KvPages pages(3, 16);
  std::set<int32_t> got;
  for (int i = 0; i < 3; ++i) got.insert(pages.Allocate().value());
  EXPECT_EQ(got, (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(pages.used(), 3);
  EXPECT_EQ(pages.free(), 0);
  EXPECT_FALSE(pages.Allocate().has_value());
}

TEST(KvPagesTest, ASharedPageIsFreeWhenItsLastUserLetsGo) {
  KvPages pages(1, 16);
  const int32_t page = pages.Allocate().value();
  pages.Share(page);
  pages.Release(page);
  EXPECT_FALSE(pages.Allocate().has_value());
  pages.Release(page);
  EXPECT_EQ(pages.free(), 1);
  EXPECT_EQ(pages.Allocate(), page);
}

TEST(KvPagesTest, RandomUseAgreesWithAPlainCount) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    KvPages pages(8, 4);
    std::map<int32_t, int> users;
    for (int i = 0; i < 2000; ++i) {
      const int what = static_cast<int>(random() % 3);
      if (what == 0) {
        std::optional<int32_t> page = pages.Allocate();
        ASSERT_EQ(page.has_value(), users.size() < 8);
        if (page) ASSERT_TRUE(users.emplace(*page, 1).second) << "page " << *page << " is in use";
      } else if (!users.empty()) {
        auto entry = std::next(users.begin(), random() % users.size());
        if (what == 1) {
          pages.Share(entry->first);
          ++entry->second;
        } else {
          pages.Release(entry->first);
          if (--entry->second == 0) users.erase(entry);
        }
      }
      ASSERT_EQ(pages.used(), static_cast<int64_t>(users.size()));
      ASSERT_EQ(pages.used() + pages.free(), pages.total());
    }
  }
}

}  // namespace
}  // namespace attune
