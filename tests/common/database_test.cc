#include "common/database.h"

#include <atomic>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

class DatabaseTest : public ::testing::Test {
 protected:
  DatabaseTest() {
    std::string pattern = (fs::temp_directory_path() / "attune_database_test.XXXXXX").string();
    dir_ = mkdtemp(pattern.data());
    Reopen();
    EXPECT_TRUE(database_->Run("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, size REAL)").ok());
  }
  ~DatabaseTest() override {
    database_.reset();
    fs::remove_all(dir_);
  }
  void Reopen() {
    database_.reset();
    auto database = Database::Open(dir_ + "/attune.db");
    ASSERT_TRUE(database.ok()) << database.status();
    database_ = std::move(*database);
  }
  int64_t Count() {
    int64_t count = -1;
    EXPECT_TRUE(database_->Run("SELECT COUNT(*) FROM t", {}, [&](const DatabaseRow& row) { count = row.Int(0); }).ok());
    return count;
  }
  std::string Pragma(const char* name) {
    std::string value;
    EXPECT_TRUE(database_->Run(std::string("PRAGMA ") + name, {}, [&](const DatabaseRow& r) { value = r.Text(0); }).ok());
    return value;
  }

  std::string dir_;
  std::unique_ptr<Database> database_;
};

TEST_F(DatabaseTest, CommitsSurvivePowerCuts) {
  EXPECT_EQ(Pragma("journal_mode"), "wal");
  EXPECT_EQ(Pragma("synchronous"), "2");  // FULL
  EXPECT_EQ(Pragma("foreign_keys"), "1");
}

TEST_F(DatabaseTest, BindsAndReadsEveryType) {
  const std::string bytes("a\0'\"\xff", 5);
  ASSERT_TRUE(database_->Run("INSERT INTO t VALUES (?1, ?2, ?3)", {int64_t{1} << 60, bytes, 0.1}).ok());
  ASSERT_TRUE(database_->Run("INSERT INTO t VALUES (?1, ?2, NULL)", {7, ""}).ok());
  int rows = 0;
  ASSERT_TRUE(database_->Run("SELECT id, name, size FROM t ORDER BY id DESC", {}, [&](const DatabaseRow& row) {
    if (rows++ == 0) {
      EXPECT_EQ(row.Int(0), int64_t{1} << 60);
      EXPECT_EQ(row.Text(1), bytes);
      EXPECT_EQ(row.Real(2), 0.1);
    } else {
      EXPECT_EQ(row.Int(0), 7);
      EXPECT_EQ(row.Text(1), "");
      EXPECT_EQ(row.Text(2), "");
    }
  }).ok());
  EXPECT_EQ(rows, 2);
}

TEST_F(DatabaseTest, RowsAreThereAfterReopening) {
  ASSERT_TRUE(database_->Run("INSERT INTO t (name) VALUES ('a')").ok());
  Reopen();
  EXPECT_EQ(Count(), 1);
}

TEST_F(DatabaseTest, UniqueConstraintsGiveAlreadyExists) {
  ASSERT_TRUE(database_->Run("INSERT INTO t (name) VALUES ('a')").ok());
  EXPECT_EQ(database_->Run("INSERT INTO t (name) VALUES ('a')").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Count(), 1);
}

TEST_F(DatabaseTest, WrongStatementsAndFilesAreErrors) {
  EXPECT_EQ(database_->Run("SELEKT 1").code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(Database::Open(dir_ + "/none/attune.db").ok());
  EXPECT_FALSE(Database::Open(dir_).ok());
}

TEST_F(DatabaseTest, FullDiskIsSaidAndLosesNothing) {
  ASSERT_TRUE(database_->Run("INSERT INTO t (name) VALUES ('a')").ok());
  ASSERT_TRUE(database_->Run("PRAGMA max_page_count=8").ok());
  absl::Status status = database_->Run("INSERT INTO t (name) VALUES (?1)", {std::string(1 << 20, 'x')});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorDetails(status).reason, "DISK_FULL");
  EXPECT_EQ(Count(), 1);
}

TEST_F(DatabaseTest, TransactionsCommitWhole) {
  int64_t changes = 0;
  ASSERT_TRUE(database_->RunTransaction([&](Database::Transaction& transaction) {
    ATTUNE_RETURN_IF_ERROR(transaction.Run("INSERT INTO t (name) VALUES ('a'), ('b')"));
    ATTUNE_RETURN_IF_ERROR(transaction.Run("UPDATE t SET size = 1 WHERE name <> ?1", {"none"}));
    changes = transaction.Changes();
    return absl::OkStatus();
  }).ok());
  EXPECT_EQ(changes, 2);
  EXPECT_EQ(Count(), 2);
}

TEST_F(DatabaseTest, FailedTransactionsLeaveNothing) {
  absl::Status status = database_->RunTransaction([](Database::Transaction& transaction) {
    ATTUNE_RETURN_IF_ERROR(transaction.Run("INSERT INTO t (name) VALUES ('a')"));
    return MakeError(absl::StatusCode::kAborted, "STALE", "stale");
  });
  EXPECT_EQ(GetErrorDetails(status).reason, "STALE");
  EXPECT_EQ(Count(), 0);
  // A statement that fails inside does the same, and the next transaction works.
  EXPECT_FALSE(database_->RunTransaction([](Database::Transaction& transaction) {
    ATTUNE_RETURN_IF_ERROR(transaction.Run("INSERT INTO t (name) VALUES ('a')"));
    return transaction.Run("INSERT INTO t (name) VALUES ('a')");
  }).ok());
  EXPECT_EQ(Count(), 0);
  EXPECT_TRUE(database_->RunTransaction([](Database::Transaction& transaction) {
    return transaction.Run("INSERT INTO t (name) VALUES ('a')");
  }).ok());
  EXPECT_EQ(Count(), 1);
}

TEST_F(DatabaseTest, ThreadsTakeTurns) {
  ASSERT_TRUE(database_->Run("INSERT INTO t VALUES (1, 'counter', 0)").ok());
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 25; ++k) {
        // A read and a write that would lose updates if transactions interleaved.
        absl::Status status = database_->RunTransaction([](Database::Transaction& transaction) {
          double value = 0;
          ATTUNE_RETURN_IF_ERROR(transaction.Run("SELECT size FROM t WHERE id = 1", {},
                                                 [&](const DatabaseRow& row) { value = row.Real(0); }));
          return transaction.Run("UPDATE t SET size = ?1 WHERE id = 1", {value + 1});
        });
        if (!status.ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  double value = 0;
  ASSERT_TRUE(database_->Run("SELECT size FROM t WHERE id = 1", {},
                             [&](const DatabaseRow& row) { value = row.Real(0); }).ok());
  EXPECT_EQ(value, 100);
}

TEST(DatabaseMemoryTest, OpensInMemory) {
  auto database = Database::Open(":memory:");
  ASSERT_TRUE(database.ok());
  EXPECT_TRUE((*database)->Run("CREATE TABLE t (id INTEGER)").ok());
}

}  // namespace
}  // namespace attune
