#include "server/adapters/registry.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "server/adapters/alias_table.h"
#include "server/adapters/import_source.h"
#include "server/adapters/model_record.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

// No id starts with a point, so staging folders and models cannot meet.
constexpr char kStagingPrefix[] = ".staging-";

constexpr char kSchema[] =
    "CREATE TABLE IF NOT EXISTS models("
    "position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, request_id TEXT UNIQUE, "
    "base_model TEXT NOT NULL, tuning_job TEXT NOT NULL, version INTEGER NOT NULL, description TEXT NOT NULL)";
constexpr char kSelect[] = "SELECT position, id, base_model, tuning_job, version, description FROM models ";

std::string Name(absl::string_view id) { return absl::StrCat(kModels, "/", id); }

// Positions are never used twice, so a model that was deleted and made again has another etag.
std::string Etag(int64_t position, int64_t version) { return absl::StrCat(position, "-", version); }

absl::Status ModelExists(absl::string_view id) {
  return MakeError(absl::StatusCode::kAlreadyExists, "MODEL_EXISTS", absl::StrCat("'", Name(id), "' is there already."),
                   {{"name", Name(id)}});
}

absl::Status CheckEtag(const ModelInfo& info, absl::string_view etag) {
  if (etag.empty() || etag == info.etag) return absl::OkStatus();
  return MakeError(absl::StatusCode::kAborted, "ETAG_MISMATCH",
                   absl::StrCat("'", Name(info.id), "' has changed since it was read; read it again."),
                   {{"name", Name(info.id)}});
}

// Database or Transaction.
template <typename Runner>
absl::StatusOr<std::vector<ModelInfo>> Select(Runner* runner, absl::string_view condition,
                                              const std::vector<DatabaseValue>& parameters) {
  std::vector<ModelInfo> found;
  absl::Status decoded;
  ATTUNE_RETURN_IF_ERROR(runner->Run(absl::StrCat(kSelect, condition), parameters, [&](const DatabaseRow& row) {
    absl::StatusOr<ModelInfo> info = DecodeModelRecord(row.Text(5));
    if (!info.ok()) {
      decoded = info.status();
      return;
    }
    info->position = row.Int(0);
    info->id = row.Text(1);
    info->base_model = row.Text(2);
    info->tuning_job = row.Text(3);
    info->etag = Etag(row.Int(0), row.Int(4));
    found.push_back(*std::move(info));
  }));
  ATTUNE_RETURN_IF_ERROR(decoded);
  return found;
}

template <typename Runner>
absl::StatusOr<ModelInfo> SelectOne(Runner* runner, absl::string_view id) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<ModelInfo> found, Select(runner, "WHERE id = ?1", {id}));
  if (found.empty()) return NoSuchModel(*runner, id);
  return std::move(found[0]);
}

// Empty if no model was made by this request.
absl::StatusOr<std::vector<ModelInfo>> SelectRequest(Database* database, const std::string& request_id) {
  if (request_id.empty()) return std::vector<ModelInfo>();
  return Select(database, "WHERE request_id = ?1", {request_id});
}

// Removes a staging folder that was not published; after PublishDirectory there is none.
class StagingGuard {
 public:
  explicit StagingGuard(std::string path) : path_(std::move(path)) {}
  ~StagingGuard() { RemoveAll(path_).IgnoreError(); }  // Open removes it otherwise
  StagingGuard(const StagingGuard&) = delete;
  StagingGuard& operator=(const StagingGuard&) = delete;

 private:
  const std::string path_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRegistry>> ModelRegistry::Open(const std::string& directory, Database* database,
                                                                   const Clock* clock, Options options) {
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(directory));
  ATTUNE_RETURN_IF_ERROR(database->Run(kSchema));
  ATTUNE_RETURN_IF_ERROR(MakeAliasTables(database));
  auto registry = std::unique_ptr<ModelRegistry>(new ModelRegistry(directory, database, clock, std::move(options)));
  ATTUNE_RETURN_IF_ERROR(registry->Recover());
  return registry;
}

// Folders without a row are imports and jobs that never finished, or deletions that did
// not come to the files. Rows without a folder are models that somebody took away.
absl::Status ModelRegistry::Recover() {
  std::set<std::string> rows;
  ATTUNE_RETURN_IF_ERROR(
      database_->Run("SELECT id FROM models", {}, [&](const DatabaseRow& row) { rows.insert(row.Text(0)); }));
  std::vector<std::string> leftovers;
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end; it.increment(error)) {
    if (rows.erase(it->path().filename().string()) == 0) leftovers.push_back(it->path().string());
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", directory_));
  for (const std::string& path : leftovers) {
    LogInfo("model.leftover_removed", {{"path", path}});
    ATTUNE_RETURN_IF_ERROR(RemoveAll(path));
  }
  for (const std::string& id : rows) {
    LogError("model.files_missing", {{"model", Name(id)}, {"action", "removed from the registry"}});
    ATTUNE_RETURN_IF_ERROR(database_->Run("DELETE FROM models WHERE id = ?1", {id}));
  }
  return absl::OkStatus();
}

std::string ModelRegistry::Directory(absl::string_view id) const { return absl::StrCat(directory_, "/", id); }

absl::StatusOr<std::string> ModelRegistry::NewStagingDirectory() {
  std::string path = absl::StrCat(directory_, "/", kStagingPrefix, RandomId("m"));
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(path));
  return path;
}

absl::StatusOr<ModelInfo> ModelRegistry::Import(const ImportOptions& options) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<ModelInfo> made, SelectRequest(database_, options.request_id));
  if (!made.empty()) return std::move(made[0]);
  if (!options.id.empty()) ATTUNE_RETURN_IF_ERROR(CheckId(options.id, "model_id"));
  ATTUNE_ASSIGN_OR_RETURN(ImportSource source, FindImportSource(options.source_path, options_.import_roots));
  if (source.is_adapter && options.base_model.empty()) {
    return InvalidField("base_model", "is required for an adapter: the model that it was tuned from");
  }
  if (!source.is_adapter && !options.base_model.empty()) {
    return InvalidField("base_model", "is for adapters alone; there are whole weights at the path");
  }
  ModelInfo info;
  info.id = options.id.empty() ? MakeId(source.name) : options.id;
  if (Get(info.id).ok()) return ModelExists(info.id);
  ATTUNE_RETURN_IF_ERROR(CheckIdIsNoAlias(*database_, info.id));
  info.kind = ModelKind::kBase;
  info.display_name = options.display_name;
  info.description = options.description;
  info.labels = options.labels;

  ATTUNE_ASSIGN_OR_RETURN(std::string staging, NewStagingDirectory());
  StagingGuard guard(staging);
  ATTUNE_RETURN_IF_ERROR(CopyImportSource(source, staging));
  if (source.is_adapter) {
    ATTUNE_RETURN_IF_ERROR(DescribeAdapter(options.base_model, staging, &info));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(info.architecture, options_.inspect(staging));
  }
  return PublishAs(std::move(info), staging, options.request_id);
}

absl::Status ModelRegistry::DescribeAdapter(const std::string& base_model, const std::string& directory,
                                            ModelInfo* info) const {
  ATTUNE_ASSIGN_OR_RETURN(const ModelInfo base, Get(base_model));
  if (IsAdapter(base.kind)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
                     absl::StrCat("'models/", base.id, "' is an adapter, too; name the model that both are based on."));
  }
  ATTUNE_ASSIGN_OR_RETURN(info->kind, options_.inspect_adapter(directory, Directory(base.id)));
  info->base_model = base.id;
  info->architecture = base.architecture;
  return absl::OkStatus();
}

absl::StatusOr<ModelInfo> ModelRegistry::Publish(ModelInfo info, const std::string& staging_directory,
                                                 const std::string& request_id) {
  ATTUNE_RETURN_IF_ERROR(CheckId(info.id, "model_id"));
  return PublishAs(std::move(info), staging_directory, request_id);
}

absl::StatusOr<ModelInfo> ModelRegistry::PublishAs(ModelInfo info, const std::string& staging_directory,
                                                   const std::string& request_id) {
  absl::MutexLock lock(&mutex_);
  ATTUNE_ASSIGN_OR_RETURN(std::vector<ModelInfo> made, SelectRequest(database_, request_id));
  if (!made.empty()) return std::move(made[0]);
  absl::StatusOr<ModelInfo> same_id = Get(info.id);
  if (same_id.ok()) {
    if (info.tuning_job.empty() || same_id->tuning_job != info.tuning_job) return ModelExists(info.id);
    ATTUNE_RETURN_IF_ERROR(RemoveAll(staging_directory));
    return same_id;
  }
  ATTUNE_RETURN_IF_ERROR(CheckIdIsNoAlias(*database_, info.id));
  if (!absl::IsNotFound(same_id.status())) return same_id.status();
  if (!info.base_model.empty()) ATTUNE_RETURN_IF_ERROR(Get(info.base_model).status());
  return Insert(std::move(info), staging_directory, request_id);
}

absl::StatusOr<ModelInfo> ModelRegistry::Insert(ModelInfo info, const std::string& staging_directory,
                                                const std::string& request_id) {
  const std::string directory = Directory(info.id);
  ATTUNE_RETURN_IF_ERROR(RemoveAll(directory));  // without a row it is what a failed deletion left
  info.size_bytes = SizeOnDisk(staging_directory);
  info.create_time = clock_->Now();
  ATTUNE_RETURN_IF_ERROR(PublishDirectory(staging_directory, directory));
  absl::Status inserted = database_->RunTransaction([&](Database::Transaction& transaction) -> absl::Status {
    ATTUNE_RETURN_IF_ERROR(CheckIdIsNoAlias(transaction, info.id));
    return transaction.Run(
        "INSERT INTO models(id, request_id, base_model, tuning_job, version, description) "
        "VALUES(?1, NULLIF(?2, ''), ?3, ?4, 1, ?5)",
        {info.id, request_id, info.base_model, info.tuning_job, EncodeModelRecord(info)});
  });
  if (!inserted.ok()) {
    RemoveAll(directory).IgnoreError();  // Open removes it otherwise
    return inserted;
  }
  LogInfo("model.published", {{"model", Name(info.id)}, {"bytes", absl::StrCat(info.size_bytes)}});
  return Get(info.id);
}

absl::StatusOr<ModelInfo> ModelRegistry::Get(absl::string_view id) const { return SelectOne(database_, id); }

absl::StatusOr<std::vector<ModelInfo>> ModelRegistry::List(int limit, int64_t before_position) const {
  return Select(database_, "WHERE position < ?1 ORDER BY position DESC LIMIT ?2", {before_position, limit});
}

absl::StatusOr<ModelInfo> ModelRegistry::Update(absl::string_view id, const Changes& changes, absl::string_view etag) {
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Database::Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, SelectOne(&transaction, id));
    ATTUNE_RETURN_IF_ERROR(CheckEtag(info, etag));
    if (changes.display_name != nullptr) info.display_name = *changes.display_name;
    if (changes.description != nullptr) info.description = *changes.description;
    if (changes.labels != nullptr) info.labels = *changes.labels;
    return transaction.Run("UPDATE models SET description = ?2, version = version + 1 WHERE id = ?1",
                           {id, EncodeModelRecord(info)});
  }));
  return Get(id);
}

absl::Status ModelRegistry::Delete(absl::string_view id, absl::string_view etag) {
  absl::MutexLock lock(&mutex_);
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Database::Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, SelectOne(&transaction, id));
    ATTUNE_RETURN_IF_ERROR(CheckEtag(info, etag));
    ATTUNE_RETURN_IF_ERROR(CheckIsNoTarget(transaction, id));
    ATTUNE_ASSIGN_OR_RETURN(std::vector<ModelInfo> users,
                            Select(&transaction, "WHERE base_model = ?1 ORDER BY position LIMIT 1", {id}));
    if (!users.empty()) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_IN_USE",
                       absl::StrCat("'", Name(users[0].id), "' is based on '", Name(id), "'; delete that first."),
                       {{"name", Name(id)}, {"user", Name(users[0].id)}});
    }
    return transaction.Run("DELETE FROM models WHERE id = ?1", {id});
  }));
  LogInfo("model.deleted", {{"model", Name(id)}});
  return RemoveAll(Directory(id));
}

}  // namespace attune
