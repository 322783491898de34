#ifndef ATTUNE_COMMON_DATABASE_H_
#define ATTUNE_COMMON_DATABASE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

struct sqlite3;
struct sqlite3_stmt;

namespace attune {

// One row of a query's result; valid inside the callback only.
class DatabaseRow {
 public:
  explicit DatabaseRow(sqlite3_stmt* statement) : statement_(statement) {}
  int64_t Int(int column) const;
  double Real(int column) const;
  std::string Text(int column) const;  // empty for NULL; blobs as they are

 private:
  sqlite3_stmt* statement_;
};

// A parameter of a statement.
class DatabaseValue {
 public:
  DatabaseValue(int value) : kind_(kInt), int_(value) {}
  DatabaseValue(int64_t value) : kind_(kInt), int_(value) {}
  DatabaseValue(double value) : kind_(kReal), real_(value) {}
  DatabaseValue(absl::string_view value) : kind_(kText), text_(value) {}
  DatabaseValue(const std::string& value) : kind_(kText), text_(value) {}
  DatabaseValue(const char* value) : kind_(kText), text_(value) {}

 private:
  friend class Database;
  enum Kind { kInt, kReal, kText } kind_;
  int64_t int_ = 0;
  double real_ = 0;
  std::string text_;
};

// The one SQLite file of a data directory: jobs, datasets and models have their
// tables in it, each made by the module that owns it. Write-ahead log, synchronous
// FULL: a committed transaction survives a power cut. Thread-safe: calls take
// turns, and a Transaction keeps the turn until its function returns.
class Database {
 public:
  using RowFunction = std::function<void(const DatabaseRow&)>;

  // Opens or makes the file; ":memory:" for tests.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Runs one statement. `parameters` bind to ?1, ?2, ... A full disk gives
  // RESOURCE_EXHAUSTED (DISK_FULL), a broken UNIQUE constraint ALREADY_EXISTS.
  absl::Status Run(absl::string_view sql, const std::vector<DatabaseValue>& parameters = {},
                   const RowFunction& on_row = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);

  // Runs `body` in a transaction, which commits if it returns OK. The body must
  // use only the Database calls of the object it is handed (`Run` there does not lock).
  class Transaction {
   public:
    absl::Status Run(absl::string_view sql, const std::vector<DatabaseValue>& parameters = {},
                     const RowFunction& on_row = nullptr);
    // Rows that the last statement changed.
    int64_t Changes() const;

   private:
    friend class Database;
    explicit Transaction(Database* database) : database_(database) {}
    Database* database_;
  };
  absl::Status RunTransaction(const std::function<absl::Status(Transaction&)>& body) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit Database(sqlite3* handle) : handle_(handle) {}
  absl::Status RunLocked(absl::string_view sql, const std::vector<DatabaseValue>& parameters, const RowFunction& on_row);

  absl::Mutex mutex_;
  sqlite3* handle_;  // used under mutex_ only; RunLocked is also called by Transaction, which holds it
};

}  // namespace attune

#endif  // ATTUNE_COMMON_DATABASE_H_
