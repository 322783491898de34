#include "server/adapters/alias_router.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

constexpr int kKeys = 100'000;

std::string Key(int i) { return absl::StrCat("tenant-", i); }

std::map<std::string, double> Shares(const std::vector<AliasTarget>& targets) {
  std::map<std::string, double> shares;
  for (int i = 0; i < kKeys; ++i) shares[ChooseTarget(targets, Key(i)).model] += 1.0 / kKeys;
  return shares;
}

// The share of keys that go elsewhere, by {from, to}.
std::map<std::pair<std::string, std::string>, double> Moves(const std::vector<AliasTarget>& before,
                                                            const std::vector<AliasTarget>& after) {
  std::map<std::pair<std::string, std::string>, double> moves;
  for (int i = 0; i < kKeys; ++i) {
    const std::string from = ChooseTarget(before, Key(i)).model, to = ChooseTarget(after, Key(i)).model;
    if (from != to) moves[{from, to}] += 1.0 / kKeys;
  }
  return moves;
}

TEST(AliasRouterTest, OneTargetGetsEverything) {
  const std::vector<AliasTarget> targets = {{"only", 7}};
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ChooseTarget(targets, Key(i)).model, "only");
  EXPECT_EQ(ChooseTarget(targets, "").model, "only");
}

TEST(AliasRouterTest, EachTargetGetsItsPart) {
  // Five standard deviations of a share of 100,000 keys are at most 0.008.
  std::map<std::string, double> shares = Shares({{"a", 90}, {"b", 10}});
  EXPECT_NEAR(shares["a"], 0.9, 0.005);
  EXPECT_NEAR(shares["b"], 0.1, 0.005);
  shares = Shares({{"a", 4}, {"b", 3}, {"c", 2}, {"d", 1}});
  EXPECT_NEAR(shares["a"], 0.4, 0.008);
  EXPECT_NEAR(shares["b"], 0.3, 0.008);
  EXPECT_NEAR(shares["c"], 0.2, 0.008);
  EXPECT_NEAR(shares["d"], 0.1, 0.008);
  shares = Shares({{"a", 999'999}, {"b", 1}});
  EXPECT_LT(shares["b"], 0.0002);
}

TEST(AliasRouterTest, AKeyStaysWhateverTheOrderAndTheScale) {
  const std::vector<AliasTarget> one = {{"a", 1}, {"b", 2}, {"c", 3}}, other = {{"c", 300}, {"a", 100}, {"b", 200}};
  for (int i = 0; i < 10'000; ++i) {
    EXPECT_EQ(ChooseTarget(one, Key(i)).model, ChooseTarget(other, Key(i)).model) << i;
  }
}

TEST(AliasRouterTest, KeysKeepTheirTargetBetweenBuilds) {
  // Worked out apart from this code. Were it to change, tenants would change models with an update of the server.
  const std::vector<AliasTarget> targets = {{"a", 1}, {"b", 1}};
  std::string chosen;
  for (int i = 0; i < 16; ++i) chosen += ChooseTarget(targets, Key(i)).model;
  EXPECT_EQ(chosen, "bbaaaaaaaaaaaaba");
}

TEST(AliasRouterTest, ACanaryTakesJustItsShareAndGivesItBack) {
  const std::vector<AliasTarget> before = {{"old", 100}}, canary = {{"old", 90}, {"new", 10}},
                                 half = {{"old", 1}, {"new", 1}};
  auto moves = Moves(before, canary);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_NEAR((moves[{"old", "new"}]), 0.1, 0.005);
  moves = Moves(canary, half);
  ASSERT_EQ(moves.size(), 1u) << "a key that met the new model must not go back";
  EXPECT_NEAR((moves[{"old", "new"}]), 0.4, 0.008);
  moves = Moves(half, before);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_NEAR((moves[{"new", "old"}]), 0.5, 0.008);
}

TEST(AliasRouterTest, OneMoreTargetTakesFromEachAndMovesNothingElse) {
  auto moves = Moves({{"a", 60}, {"b", 40}}, {{"a", 48}, {"b", 32}, {"c", 20}});
  ASSERT_EQ(moves.size(), 2u);
  EXPECT_NEAR((moves[{"a", "c"}]), 0.12, 0.006);
  EXPECT_NEAR((moves[{"b", "c"}]), 0.08, 0.005);
}

TEST(AliasRouterTest, AnyChangeOfWeightsMovesKeysOnlyToWhatGrew) {
  // a gives, b keeps, c takes: nothing comes to a, nothing leaves c.
  const auto moves = Moves({{"a", 50}, {"b", 30}, {"c", 20}}, {{"a", 30}, {"b", 30}, {"c", 40}});
  double moved = 0;
  for (const auto& [way, share] : moves) {
    EXPECT_NE(way.second, "a");
    EXPECT_NE(way.first, "c");
    moved += share;
  }
  EXPECT_GE(moved, 0.2 - 0.006);            // what must move
  EXPECT_LE(moved, 2 * 0.2 / 1.2 + 0.006);  // the least that holds for every pair of settings (Bavarian et al. 2020)
}

}  // namespace
}  // namespace attune
