#include "client/cli/unified_diff.h"

#include <gtest/gtest.h>

namespace attune::cli {
namespace {

TEST(UnifiedDiffTest, EqualTextsGiveNothing) {
  EXPECT_EQ(UnifiedDiff("a", "", "b", ""), "");
  EXPECT_EQ(UnifiedDiff("a", "x\ny\n", "b", "x\ny"), "");
}

TEST(UnifiedDiffTest, ChangesAndLinesAround) {
  EXPECT_EQ(UnifiedDiff("a", "1\n2\n3\n4\n5\n6\n7\n8\n9", "b", "1\n2\n3\n4\nfive\n6\n7\n8\n9"),
            "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
  EXPECT_EQ(UnifiedDiff("a", "1\n2", "b", "0\n1\n2"), "--- a\n+++ b\n@@ -1,2 +1,3 @@\n+0\n 1\n 2\n");
  EXPECT_EQ(UnifiedDiff("a", "1\n2", "b", "1"), "--- a\n+++ b\n@@ -1,2 +1,1 @@\n 1\n-2\n");
}

TEST(UnifiedDiffTest, FarChangesAreHunksOfTheirOwn) {
  std::string old_text, new_text;
  for (int i = 0; i < 30; ++i) {
    old_text += "line " + std::to_string(i) + "\n";
    new_text += (i == 2 || i == 25 ? "other " : "line ") + std::to_string(i) + "\n";
  }
  EXPECT_EQ(UnifiedDiff("a", old_text, "b", new_text),
            "--- a\n+++ b\n"
            "@@ -1,6 +1,6 @@\n line 0\n line 1\n-line 2\n+other 2\n line 3\n line 4\n line 5\n"
            "@@ -23,7 +23,7 @@\n line 22\n line 23\n line 24\n-line 25\n+other 25\n line 26\n line 27\n line 28\n");
}

}  // namespace
}  // namespace attune::cli
