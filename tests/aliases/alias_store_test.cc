#include "server/adapters/alias_store.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/alias_table.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

constexpr int64_t kNewest = std::numeric_limits<int64_t>::max();

std::string Reason(const absl::Status& status) { return GetErrorDetails(status).reason; }

class AliasStoreTest : public ::testing::Test {
 protected:
  AliasStoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    database_.reset();
    database_ = Database::Open(folder_.File("attune.db")).value();
    // What of the registry's table the store looks at; rpc/alias_service_test has the real one.
    ASSERT_TRUE(database_->Run("CREATE TABLE IF NOT EXISTS models (id TEXT NOT NULL UNIQUE)").ok());
    store_ = AliasStore::Open(database_.get(), &clock_).value();
  }
  void AddModels(const std::vector<std::string>& ids) {
    for (const std::string& id : ids) ASSERT_TRUE(database_->Run("INSERT INTO models VALUES (?1)", {id}).ok());
  }
  void DeleteModel(const std::string& id) {
    ASSERT_TRUE(database_->Run("DELETE FROM models WHERE id = ?1", {id}).ok());
  }
  absl::StatusOr<Alias> Set(const std::string& id, const std::vector<AliasTarget>& targets,
                            const std::string& etag = "", const std::string& request_id = "") {
    clock_.Advance(absl::Seconds(1));
    return store_->Set(id, targets, etag, request_id);
  }
  absl::StatusOr<Alias> RollBack(const std::string& id, const std::string& etag = "",
                                 const std::string& request_id = "") {
    clock_.Advance(absl::Seconds(1));
    return store_->RollBack(id, etag, request_id);
  }
  // Its setting in force, as text.
  std::string Now(const std::string& id) {
    absl::StatusOr<Alias> alias = store_->Get(id);
    return alias.ok() ? EncodeTargets(alias->settings[0].targets) : Reason(alias.status());
  }

  TempFolder folder_;
  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<AliasStore> store_;
};

TEST_F(AliasStoreTest, SetsAndRoutes) {
  AddModels({"a", "b"});
  EXPECT_EQ(store_->Route("tickets", "key"), "tickets");
  absl::StatusOr<Alias> alias = Set("tickets", {{"a", 1}});
  ASSERT_TRUE(alias.ok()) << alias.status();
  EXPECT_EQ(alias->id, "tickets");
  EXPECT_EQ(alias->create_time, clock_.Now());
  ASSERT_EQ(alias->settings.size(), 1u);
  EXPECT_EQ(alias->settings[0].targets, (std::vector<AliasTarget>{{"a", 1}}));
  EXPECT_EQ(alias->settings[0].set_time, clock_.Now());
  EXPECT_EQ(store_->Route("tickets", "key"), "a");
  EXPECT_EQ(store_->Route("tickets", ""), "a");
  EXPECT_EQ(store_->Route("a", "key"), "a");
  ASSERT_TRUE(Set("tickets", {{"b", 1}}).ok());
  EXPECT_EQ(store_->Route("tickets", "key"), "b");
}

TEST_F(AliasStoreTest, RequestsWithoutAKeyAreSplitByChance) {
  AddModels({"a", "b"});
  ASSERT_TRUE(Set("tickets", {{"a", 3}, {"b", 1}}).ok());
  std::map<std::string, int> keyed, by_chance;
  for (int i = 0; i < 4000; ++i) {
    ++keyed[store_->Route("tickets", "one key")];
    ++by_chance[store_->Route("tickets", "")];
  }
  EXPECT_EQ(keyed.size(), 1u);
  // Seven standard deviations.
  EXPECT_NEAR(by_chance["a"], 3000, 200);
  EXPECT_NEAR(by_chance["b"], 1000, 200);
}

TEST_F(AliasStoreTest, SurvivesARestart) {
  AddModels({"a", "b"});
  ASSERT_TRUE(Set("tickets", {{"a", 1}}).ok());
  ASSERT_TRUE(Set("tickets", {{"a", 90}, {"b", 10}}).ok());
  ASSERT_TRUE(Set("gone", {{"a", 1}}).ok());
  ASSERT_TRUE(store_->Delete("gone", "").ok());
  const Alias before = store_->Get("tickets").value();
  std::vector<std::string> routes;
  for (int i = 0; i < 100; ++i) routes.push_back(store_->Route("tickets", absl::StrCat(i)));
  Reopen();
  const Alias after = store_->Get("tickets").value();
  EXPECT_EQ(after.etag, before.etag);
  EXPECT_EQ(after.create_time, before.create_time);
  ASSERT_EQ(after.settings.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(after.settings[i].targets, before.settings[i].targets);
    EXPECT_EQ(after.settings[i].revision, before.settings[i].revision);
    EXPECT_EQ(after.settings[i].set_time, before.settings[i].set_time);
  }
  for (int i = 0; i < 100; ++i) EXPECT_EQ(store_->Route("tickets", absl::StrCat(i)), routes[i]);
  EXPECT_EQ(store_->Route("gone", "x"), "gone");
  ASSERT_TRUE(RollBack("tickets").ok());
  EXPECT_EQ(Now("tickets"), "a=1");
}

TEST_F(AliasStoreTest, RollsBackStepByStep) {
  AddModels({"a", "b", "c"});
  for (const char* model : {"a", "b", "c"}) ASSERT_TRUE(Set("t", {{model, 1}}).ok());
  ASSERT_TRUE(RollBack("t").ok());
  EXPECT_EQ(Now("t"), "b=1");
  EXPECT_EQ(store_->Route("t", "k"), "b");
  ASSERT_TRUE(RollBack("t").ok());
  EXPECT_EQ(Now("t"), "a=1");
  EXPECT_EQ(Reason(RollBack("t").status()), "NO_EARLIER_SETTING");
  EXPECT_EQ(Now("t"), "a=1");
  // A setting after a roll-back goes back to what it replaced.
  ASSERT_TRUE(Set("t", {{"c", 1}}).ok());
  absl::StatusOr<Alias> back = RollBack("t");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Now("t"), "a=1");
  std::string history;
  for (const AliasSetting& setting : back->settings) absl::StrAppend(&history, EncodeTargets(setting.targets), " ");
  EXPECT_EQ(history, "a=1 c=1 a=1 b=1 c=1 b=1 a=1 ");
  EXPECT_EQ(Reason(RollBack("none").status()), "ALIAS_NOT_FOUND");
}

TEST_F(AliasStoreTest, ARollBackNeedsItsModels) {
  AddModels({"a", "b"});
  ASSERT_TRUE(Set("t", {{"a", 1}}).ok());
  ASSERT_TRUE(Set("t", {{"b", 1}}).ok());
  DeleteModel("a");
  EXPECT_EQ(Reason(RollBack("t").status()), "TARGET_DELETED");
  EXPECT_EQ(store_->Route("t", "k"), "b");
}

TEST_F(AliasStoreTest, ARepeatedRequestChangesNothing) {
  AddModels({"a", "b"});
  const Alias first = Set("t", {{"a", 1}}, "", "r1").value();
  EXPECT_EQ(Set("t", {{"a", 1}}, "", "r1")->etag, first.etag);
  const Alias second = Set("t", {{"b", 1}}, first.etag, "r2").value();
  EXPECT_EQ(Set("t", {{"b", 1}}, first.etag, "r2")->etag, second.etag) << "the etag was current the first time";
  const Alias back = RollBack("t", second.etag, "r3").value();
  EXPECT_EQ(RollBack("t", second.etag, "r3")->etag, back.etag);
  EXPECT_EQ(Now("t"), "a=1");
  // Late: what it asked for has been changed since, and stays so.
  EXPECT_EQ(Set("t", {{"b", 1}}, "", "r2")->etag, back.etag);
  EXPECT_EQ(Now("t"), "a=1");
  EXPECT_EQ(Reason(Set("t", {{"a", 2}}, "", "r2").status()), "REQUEST_ID_REUSED");
  EXPECT_EQ(Reason(RollBack("t", "", "r1").status()), "REQUEST_ID_REUSED");
  EXPECT_EQ(Set("t", {{"a", 1}})->settings.size(), back.settings.size()) << "set so already";
}

TEST_F(AliasStoreTest, RefusesAStaleEtag) {
  AddModels({"a", "b"});
  const std::string etag = Set("t", {{"a", 1}})->etag;
  const std::string newer = Set("t", {{"b", 1}}, etag)->etag;
  EXPECT_NE(etag, newer);
  EXPECT_EQ(Reason(Set("t", {{"a", 1}}, etag).status()), "ETAG_MISMATCH");
  EXPECT_EQ(Reason(RollBack("t", etag).status()), "ETAG_MISMATCH");
  EXPECT_EQ(Reason(store_->Delete("t", etag)), "ETAG_MISMATCH");
  EXPECT_EQ(Now("t"), "b=1");
  ASSERT_TRUE(store_->Delete("t", newer).ok());
  EXPECT_EQ(Reason(Set("t", {{"a", 1}}, newer).status()), "ALIAS_NOT_FOUND")
      << "an etag is of something that was there";
  EXPECT_NE(Set("t", {{"a", 1}})->etag, etag) << "another alias of the same name";
  EXPECT_EQ(Reason(store_->Delete("none", "")), "ALIAS_NOT_FOUND");
}

TEST_F(AliasStoreTest, RefusesNamesThatAreTakenOrMissing) {
  AddModels({"a", "b"});
  EXPECT_EQ(Reason(Set("a", {{"b", 1}}).status()), "MODEL_EXISTS");
  EXPECT_EQ(Reason(Set("t", {{"none", 1}}).status()), "MODEL_NOT_FOUND");
  ASSERT_TRUE(Set("t", {{"a", 1}}).ok());
  EXPECT_EQ(Reason(Set("u", {{"t", 1}}).status()), "MODEL_IS_ALIAS");
  EXPECT_EQ(Reason(Set("u", {}).status()), "INVALID_FIELD");
  EXPECT_EQ(Reason(Set("u", {{"a", 1}, {"a", 2}}).status()), "INVALID_FIELD");
  EXPECT_EQ(Reason(Set("u", {{"a", 0}}).status()), "INVALID_FIELD");
  EXPECT_EQ(Reason(Set("u", {{"a", AliasStore::kMostWeight + 1}}).status()), "INVALID_FIELD");
  EXPECT_EQ(Reason(Set("u", {{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}, {"e", 1}}).status()), "INVALID_FIELD");
  EXPECT_TRUE(absl::IsInvalidArgument(Set("Not An Id", {{"a", 1}}).status()));
  EXPECT_EQ(Reason(store_->Get("u").status()), "ALIAS_NOT_FOUND");
}

TEST_F(AliasStoreTest, SaysWhatTheRegistryAsks) {
  AddModels({"a", "ab", "b"});
  ASSERT_TRUE(Set("t", {{"ab", 1}, {"b", 1}}).ok());
  EXPECT_EQ(Reason(CheckIdIsNoAlias(*database_, "t")), "ALIAS_EXISTS");
  EXPECT_TRUE(CheckIdIsNoAlias(*database_, "a").ok());
  EXPECT_TRUE(CheckIsNoTarget(*database_, "a").ok());
  const ErrorDetails in_use = GetErrorDetails(CheckIsNoTarget(*database_, "b"));
  EXPECT_EQ(in_use.reason, "MODEL_IN_USE");
  EXPECT_EQ(in_use.metadata.at("alias"), "aliases/t");
  const ErrorDetails is_alias = GetErrorDetails(NoSuchModel(*database_, "t"));
  EXPECT_EQ(is_alias.reason, "MODEL_IS_ALIAS");
  EXPECT_EQ(is_alias.metadata.at("targets"), "models/ab,models/b");
  EXPECT_EQ(Reason(NoSuchModel(*database_, "none")), "MODEL_NOT_FOUND");
  ASSERT_TRUE(Set("t", {{"a", 1}}).ok());
  EXPECT_TRUE(CheckIsNoTarget(*database_, "b").ok()) << "of an earlier setting only";
  ASSERT_TRUE(store_->Delete("t", "").ok());
  EXPECT_TRUE(CheckIsNoTarget(*database_, "a").ok());
  EXPECT_TRUE(CheckIdIsNoAlias(*database_, "t").ok());
}

TEST_F(AliasStoreTest, KeepsABoundedHistory) {
  AddModels({"a", "b"});
  const int64_t settings = AliasStore::kKeptSettings + 5;
  for (int64_t i = 0; i < settings; ++i) ASSERT_TRUE(Set("t", {{i % 2 == 0 ? "a" : "b", 1}}).ok());
  const Alias alias = store_->Get("t").value();
  ASSERT_EQ(alias.settings.size(), AliasStore::kKeptSettings);
  EXPECT_EQ(alias.settings[0].revision, settings);
  int64_t steps = 0;
  while (RollBack("t").ok()) ++steps;
  EXPECT_GT(steps, 20);
  EXPECT_LT(steps, AliasStore::kKeptSettings);
}

TEST_F(AliasStoreTest, ListsNewestFirst) {
  AddModels({"a"});
  for (const char* id : {"x", "y", "z"}) ASSERT_TRUE(Set(id, {{"a", 1}}).ok());
  const std::vector<Alias> first = store_->List(2, kNewest).value();
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[0].id, "z");
  EXPECT_EQ(first[1].id, "y");
  EXPECT_EQ(first[0].settings.size(), 1u);
  const std::vector<Alias> rest = store_->List(2, first[1].position).value();
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].id, "x");
}

}  // namespace
}  // namespace attune
