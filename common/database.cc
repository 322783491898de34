#include "common/database.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

absl::Status SqliteStatus(int code, sqlite3* handle, absl::string_view what) {
  std::string message = absl::StrCat("database: ", what, ": ", handle ? sqlite3_errmsg(handle) : sqlite3_errstr(code));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL", message);
    case SQLITE_CONSTRAINT:
      return MakeError(absl::StatusCode::kAlreadyExists, "ALREADY_EXISTS", message);
    case SQLITE_BUSY:
      return MakeError(absl::StatusCode::kUnavailable, "DATABASE_BUSY", message);
    default:
      return MakeError(absl::StatusCode::kInternal, "DATABASE_ERROR", message);
  }
}

}  // namespace

int64_t DatabaseRow::Int(int column) const { return sqlite3_column_int64(statement_, column); }
double DatabaseRow::Real(int column) const { return sqlite3_column_double(statement_, column); }
std::string DatabaseRow::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  int size = sqlite3_column_bytes(statement_, column);
  return bytes ? std::string(static_cast<const char*>(bytes), size) : std::string();
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  sqlite3* handle = nullptr;
  int code = sqlite3_open_v2(path.c_str(), &handle,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (code != SQLITE_OK) {
    absl::Status status = SqliteStatus(code, handle, absl::StrCat("opening ", path));
    sqlite3_close(handle);
    return status;
  }
  auto database = std::unique_ptr<Database>(new Database(handle));
  sqlite3_busy_timeout(handle, 10000);
  for (const char* pragma : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"}) {
    ATTUNE_RETURN_IF_ERROR(database->Run(pragma));
  }
  return database;
}

Database::~Database() { sqlite3_close_v2(handle_); }

absl::Status Database::Run(absl::string_view sql, const std::vector<DatabaseValue>& parameters,
                           const RowFunction& on_row) {
  absl::MutexLock lock(&mutex_);
  return RunLocked(sql, parameters, on_row);
}

absl::Status Database::RunLocked(absl::string_view sql, const std::vector<DatabaseValue>& parameters,
                                 const RowFunction& on_row) {
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v2(handle_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  if (code != SQLITE_OK) return SqliteStatus(code, handle_, sql);
  int index = 0;
  for (const DatabaseValue& value : parameters) {
    ++index;
    switch (value.kind_) {
      case DatabaseValue::kInt: sqlite3_bind_int64(statement, index, value.int_); break;
      case DatabaseValue::kReal: sqlite3_bind_double(statement, index, value.real_); break;
      case DatabaseValue::kText:
        sqlite3_bind_text(statement, index, value.text_.data(), static_cast<int>(value.text_.size()), SQLITE_STATIC);
        break;
    }
  }
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    if (on_row) on_row(DatabaseRow(statement));
  }
  absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : SqliteStatus(code, handle_, sql);
  sqlite3_finalize(statement);
  return status;
}

absl::Status Database::Transaction::Run(absl::string_view sql, const std::vector<DatabaseValue>& parameters,
                                        const RowFunction& on_row) {
  return database_->RunLocked(sql, parameters, on_row);
}

int64_t Database::Transaction::Changes() const { return sqlite3_changes(database_->handle_); }

absl::Status Database::RunTransaction(const std::function<absl::Status(Transaction&)>& body) {
  absl::MutexLock lock(&mutex_);
  ATTUNE_RETURN_IF_ERROR(RunLocked("BEGIN IMMEDIATE", {}, nullptr));
  Transaction transaction(this);
  absl::Status status = body(transaction);
  if (status.ok()) status = RunLocked("COMMIT", {}, nullptr);
  if (!status.ok()) RunLocked("ROLLBACK", {}, nullptr).IgnoreError();
  return status;
}

}  // namespace attune
