#include "server/comparison/split.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

// Of 1000 rows nine in ten are of label a; each tenth text comes twice.
std::vector<SplitRow> Rows() {
  std::vector<SplitRow> rows;
  for (int i = 0; i < 1000; ++i) rows.push_back({i % 10 == 3 ? "b" : "a", absl::StrCat("text ", i % 10 == 7 ? i - 1 : i)});
  return rows;
}

std::map<std::string, int> Labels(const std::vector<SplitRow>& rows, const std::vector<int64_t>& part) {
  std::map<std::string, int> counts;
  for (int64_t row : part) ++counts[rows[row].label];
  return counts;
}

TEST(SplitTest, EveryRowIsInOnePartAndLabelsKeepTheirShare) {
  const std::vector<SplitRow> rows = Rows();
  const SplitParts parts = SplitRows(rows, {100, 200}, 1);
  std::set<int64_t> seen;
  for (const auto* part : {&parts.train, &parts.validation, &parts.test}) {
    EXPECT_TRUE(std::is_sorted(part->begin(), part->end()));
    for (int64_t row : *part) EXPECT_TRUE(seen.insert(row).second) << row;
  }
  EXPECT_EQ(seen.size(), rows.size());
  EXPECT_NEAR(parts.test.size(), 200, 1);
  EXPECT_NEAR(parts.validation.size(), 100, 1);
  EXPECT_NEAR(Labels(rows, parts.test)["b"], 20, 2);
  EXPECT_NEAR(Labels(rows, parts.validation)["b"], 10, 2);
}

TEST(SplitTest, EqualTextsAreInOnePart) {
  const std::vector<SplitRow> rows = Rows();
  const SplitParts parts = SplitRows(rows, {100, 200}, 2);
  std::map<std::string, int> part_of;
  int number = 0;
  for (const auto* part : {&parts.train, &parts.validation, &parts.test}) {
    ++number;
    for (int64_t row : *part) EXPECT_EQ(part_of.try_emplace(rows[row].text, number).first->second, number);
  }
}

TEST(SplitTest, TheSeedDecides) {
  const std::vector<SplitRow> rows = Rows();
  EXPECT_EQ(SplitRows(rows, {100, 200}, 5).test, SplitRows(rows, {100, 200}, 5).test);
  EXPECT_NE(SplitRows(rows, {100, 200}, 5).test, SplitRows(rows, {100, 200}, 6).test);
}

TEST(SplitTest, SamplesKeepShares) {
  const std::vector<SplitRow> rows = Rows();
  const SplitParts parts = SplitRows(rows, {0, 500}, 1);
  const std::vector<int64_t> sample = SampleRows(rows, parts.train, 100, 3);
  EXPECT_EQ(sample.size(), 100u);
  EXPECT_NEAR(Labels(rows, sample)["b"], 10, 2);
  const std::set<int64_t> train(parts.train.begin(), parts.train.end());
  for (int64_t row : sample) EXPECT_TRUE(train.contains(row));
  EXPECT_EQ(SampleRows(rows, parts.train, 100000, 3), parts.train);
}

}  // namespace
}  // namespace attune
