#include "server/engine/prompt_logits.h"

#include <gtest/gtest.h>

#include <vector>

namespace attune {
namespace {

using Ids = std::vector<int32_t>;
// Of a prompt of two tokens with a row of three.
constexpr int64_t kEntryBytes = 2 * 2 * 4 + 3 * 4;

TEST(PromptLogitsTest, FindsWhatWasPutForTheSamePromptAndModel) {
  PromptLogits logits(1000);
  logits.Put(1, Ids{1, 2}, {0.5f, 1, 2});
  const PromptLogits::Row row = logits.Find(1, Ids{1, 2});
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(*row, (std::vector<float>{0.5f, 1, 2}));
  EXPECT_EQ(logits.Find(2, Ids{1, 2}), nullptr) << "another model";
  EXPECT_EQ(logits.Find(1, Ids{1}), nullptr);
  EXPECT_EQ(logits.Find(1, Ids{1, 2, 3}), nullptr);
  EXPECT_EQ(logits.Find(1, Ids{2, 1}), nullptr);
  EXPECT_EQ(logits.bytes(), kEntryBytes);
}

TEST(PromptLogitsTest, ANewRowTakesTheOldOnesPlace) {
  PromptLogits logits(1000);
  logits.Put(1, Ids{1, 2}, {0, 0, 0});
  const PromptLogits::Row before = logits.Find(1, Ids{1, 2});
  logits.Put(1, Ids{1, 2}, {3, 4, 5});
  EXPECT_EQ(*logits.Find(1, Ids{1, 2}), (std::vector<float>{3, 4, 5}));
  EXPECT_EQ(*before, (std::vector<float>{0, 0, 0})) << "who has it keeps it";
  EXPECT_EQ(logits.bytes(), kEntryBytes);
}

TEST(PromptLogitsTest, WhatWasUsedLongestAgoMakesWay) {
  PromptLogits logits(3 * kEntryBytes);
  for (int32_t token : {1, 2, 3}) logits.Put(1, Ids{token, 0}, {1, 2, 3});
  EXPECT_NE(logits.Find(1, Ids{1, 0}), nullptr);
  logits.Put(1, Ids{4, 0}, {1, 2, 3});
  EXPECT_EQ(logits.Find(1, Ids{2, 0}), nullptr);
  for (int32_t token : {1, 3, 4}) EXPECT_NE(logits.Find(1, Ids{token, 0}), nullptr) << token;
  EXPECT_EQ(logits.bytes(), 3 * kEntryBytes);
}

TEST(PromptLogitsTest, WhatIsTooLargeIsNotKept) {
  PromptLogits logits(kEntryBytes);
  logits.Put(1, Ids{1, 2}, {1, 2, 3});
  logits.Put(1, Ids{1, 2, 3}, {1, 2, 3});
  EXPECT_EQ(logits.Find(1, Ids{1, 2, 3}), nullptr);
  EXPECT_NE(logits.Find(1, Ids{1, 2}), nullptr) << "and nothing makes way for it";

  PromptLogits none(0);
  EXPECT_FALSE(none.keeps_any());
  none.Put(1, Ids{}, {});
  none.Put(1, Ids{1, 2}, {1, 2, 3});
  EXPECT_EQ(none.Find(1, Ids{1, 2}), nullptr);
  EXPECT_EQ(none.bytes(), 0);
}

}  // namespace
}  // namespace attune
