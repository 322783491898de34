#include "server/data/dataset_store.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "server/data/dataset_record.h"
#include "server/data/dataset_upload.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

// No id starts with a point, so uploads in progress and datasets cannot meet.
constexpr absl::string_view kUploadPrefix = ".";

constexpr char kSchema[] =
    "CREATE TABLE IF NOT EXISTS datasets("
    "position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, request_id TEXT UNIQUE, "
    "description TEXT NOT NULL)";
constexpr char kSelect[] = "SELECT position, id, description FROM datasets ";

std::string Name(absl::string_view id) { return absl::StrCat(kDatasets, "/", id); }

absl::Status DatasetExists(absl::string_view id) {
  return MakeError(absl::StatusCode::kAlreadyExists, "DATASET_EXISTS", absl::StrCat("'", Name(id), "' is there already."),
                   {{"name", Name(id)}});
}

absl::StatusOr<std::vector<DatasetInfo>> Select(Database* database, absl::string_view condition,
                                                const std::vector<DatabaseValue>& parameters) {
  std::vector<DatasetInfo> found;
  absl::Status decoded;
  ATTUNE_RETURN_IF_ERROR(database->Run(absl::StrCat(kSelect, condition), parameters, [&](const DatabaseRow& row) {
    absl::StatusOr<DatasetInfo> info = DecodeDatasetRecord(row.Text(2));
    if (!info.ok()) {
      decoded = info.status();
      return;
    }
    info->position = row.Int(0);
    info->id = row.Text(1);
    found.push_back(*std::move(info));
  }));
  ATTUNE_RETURN_IF_ERROR(decoded);
  return found;
}

}  // namespace

class DatasetStore::UploadImpl : public DatasetStore::Upload {
 public:
  UploadImpl(DatasetStore* store, UploadOptions options, std::unique_ptr<UploadFile> file)
      : store_(store), options_(std::move(options)), file_(std::move(file)) {}

  absl::Status Append(absl::string_view chunk) override {
    if (file_->size() + static_cast<int64_t>(chunk.size()) > options_.max_bytes) {
      return MakeError(absl::StatusCode::kResourceExhausted, "DATASET_TOO_LARGE",
                       absl::StrCat("A dataset must not be larger than ", options_.max_bytes, " bytes."));
    }
    return file_->Append(chunk);
  }

  absl::StatusOr<DatasetInfo> Commit() override {
    DatasetInfo info = options_.info;
    info.size_bytes = file_->size();
    info.sha256 = file_->Sha256Hex();
    if (!options_.sha256.empty() && info.sha256 != absl::AsciiStrToLower(options_.sha256)) {
      return MakeError(absl::StatusCode::kDataLoss, "CHECKSUM_MISMATCH",
                       absl::StrCat("The upload's SHA-256 is ", info.sha256, ", not ", options_.sha256, "."));
    }
    ATTUNE_ASSIGN_OR_RETURN(std::string contents, file_->Contents());
    absl::Status read = attune::ReadRows(contents, &info, nullptr);
    ATTUNE_RETURN_IF_ERROR(CheckRowErrors(info, options_.skip_bad_rows));
    ATTUNE_RETURN_IF_ERROR(read);
    ATTUNE_RETURN_IF_ERROR(file_->Finish(RowsFileName(info.format)));
    return store_->Publish(file_->folder(), options_.request_id, std::move(info));
  }

 private:
  DatasetStore* const store_;
  const UploadOptions options_;
  const std::unique_ptr<UploadFile> file_;  // its folder is gone, renamed, once published
};

// A request that was carried out before: takes the bytes and answers as then.
class DatasetStore::FinishedUpload : public DatasetStore::Upload {
 public:
  explicit FinishedUpload(DatasetInfo info) : info_(std::move(info)) {}
  absl::Status Append(absl::string_view chunk) override { return absl::OkStatus(); }
  absl::StatusOr<DatasetInfo> Commit() override { return info_; }

 private:
  const DatasetInfo info_;
};

absl::StatusOr<std::unique_ptr<DatasetStore>> DatasetStore::Open(const std::string& directory, Database* database,
                                                                 const Clock* clock) {
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(directory));
  ATTUNE_RETURN_IF_ERROR(database->Run(kSchema));
  auto store = std::unique_ptr<DatasetStore>(new DatasetStore(directory, database, clock));
  ATTUNE_RETURN_IF_ERROR(store->RemoveLeftovers());
  return store;
}

// Folders without a database row: uploads that never finished, and deletions that
// did not come to the files.
absl::Status DatasetStore::RemoveLeftovers() const {
  std::set<std::string> known;
  ATTUNE_RETURN_IF_ERROR(
      database_->Run("SELECT id FROM datasets", {}, [&](const DatabaseRow& row) { known.insert(row.Text(0)); }));
  std::vector<std::string> leftovers;
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (known.erase(name) == 0) leftovers.push_back(it->path().string());
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", directory_));
  for (const std::string& path : leftovers) {
    LogInfo("dataset.leftover_removed", {{"path", path}});
    ATTUNE_RETURN_IF_ERROR(RemoveAll(path));
  }
  for (const std::string& id : known) LogError("dataset.files_missing", {{"dataset", Name(id)}});
  return absl::OkStatus();
}

std::string DatasetStore::Folder(absl::string_view id) const { return absl::StrCat(directory_, "/", id); }

absl::StatusOr<DatasetInfo> DatasetStore::FindRequest(const std::string& request_id) const {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<DatasetInfo> found, Select(database_, "WHERE request_id = ?1", {request_id}));
  if (found.empty()) return absl::NotFoundError("no such request");
  return std::move(found[0]);
}

absl::StatusOr<std::unique_ptr<DatasetStore::Upload>> DatasetStore::BeginUpload(UploadOptions options) {
  ATTUNE_RETURN_IF_ERROR(CheckUploadOptions(options));
  if (!options.request_id.empty()) {
    absl::StatusOr<DatasetInfo> made = FindRequest(options.request_id);
    if (made.ok()) return std::unique_ptr<Upload>(std::make_unique<FinishedUpload>(*std::move(made)));
    if (!absl::IsNotFound(made.status())) return made.status();
  }
  if (options.info.id.empty()) {
    options.info.id =
        RandomId(options.info.display_name.empty() ? std::string("dataset") : MakeId(options.info.display_name));
  } else if (absl::StatusOr<DatasetInfo> taken = Get(options.info.id); taken.ok()) {
    return DatasetExists(options.info.id);
  }
  std::string folder = Folder(absl::StrCat(kUploadPrefix, RandomId("upload")));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<UploadFile> file, UploadFile::Create(folder));
  return std::unique_ptr<Upload>(std::make_unique<UploadImpl>(this, std::move(options), std::move(file)));
}

absl::StatusOr<DatasetInfo> DatasetStore::Publish(const std::string& folder, const std::string& request_id,
                                                  DatasetInfo info) {
  absl::MutexLock lock(&mutex_);
  if (!request_id.empty()) {
    absl::StatusOr<DatasetInfo> made = FindRequest(request_id);
    if (!absl::IsNotFound(made.status())) return made;
  }
  absl::StatusOr<DatasetInfo> taken = Get(info.id);
  if (taken.ok()) return DatasetExists(info.id);
  if (!absl::IsNotFound(taken.status())) return taken;
  // Without a database row a folder of this name is what a failed deletion left.
  ATTUNE_RETURN_IF_ERROR(RemoveAll(Folder(info.id)));
  info.create_time = clock_->Now();
  absl::Status status = PublishDirectory(folder, Folder(info.id));
  if (status.ok()) {
    status = database_->Run("INSERT INTO datasets(id, request_id, description) VALUES(?1, NULLIF(?2, ''), ?3)",
                            {info.id, request_id, EncodeDatasetRecord(info)});
  }
  if (!status.ok()) {
    RemoveAll(Folder(info.id)).IgnoreError();  // Open removes it otherwise
    return status;
  }
  return Get(info.id);
}

absl::StatusOr<DatasetInfo> DatasetStore::Get(absl::string_view id) const {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<DatasetInfo> found, Select(database_, "WHERE id = ?1", {id}));
  if (found.empty()) return NotFound(Name(id));
  return std::move(found[0]);
}

absl::StatusOr<std::vector<DatasetInfo>> DatasetStore::List(int limit, int64_t before_position) const {
  return Select(database_, "WHERE position < ?1 ORDER BY position DESC LIMIT ?2", {before_position, limit});
}

absl::Status DatasetStore::Delete(absl::string_view id) {
  absl::MutexLock lock(&mutex_);
  int64_t changes = 0;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Database::Transaction& transaction) {
    absl::Status status = transaction.Run("DELETE FROM datasets WHERE id = ?1", {id});
    changes = transaction.Changes();
    return status;
  }));
  if (changes == 0) return NotFound(Name(id));
  return RemoveAll(Folder(id));
}

absl::StatusOr<std::vector<Row>> DatasetStore::ReadRows(absl::string_view id) const {
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, Get(id));
  absl::StatusOr<std::string> contents = ReadFile(absl::StrCat(Folder(id), "/", RowsFileName(info.format)));
  if (absl::IsNotFound(contents.status())) {
    // Deleted since the description was read, or taken away by somebody else.
    ATTUNE_RETURN_IF_ERROR(Get(id).status());
    return MakeError(absl::StatusCode::kDataLoss, "DATASET_FILE_MISSING",
                     absl::StrCat("The file of '", Name(id), "' is missing."), {{"name", Name(id)}});
  }
  ATTUNE_RETURN_IF_ERROR(contents.status());
  std::vector<Row> rows;
  rows.reserve(info.row_count);
  ATTUNE_RETURN_IF_ERROR(attune::ReadRows(*contents, &info, [&](Row row) { rows.push_back(std::move(row)); }));
  return rows;
}

}  // namespace attune
