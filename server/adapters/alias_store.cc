#include "server/adapters/alias_store.h"

#include <limits>
#include <set>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "server/adapters/alias_router.h"
#include "server/adapters/alias_table.h"

namespace attune {
namespace {

using Transaction = Database::Transaction;

std::string Name(absl::string_view id) { return absl::StrCat(kAliases, "/", id); }

// Positions are never used twice, so an alias that was deleted and made again has another etag.
std::string Etag(int64_t position, int64_t revision) { return absl::StrCat(position, "-", revision); }

absl::Status CheckTargets(const std::vector<AliasTarget>& targets) {
  if (targets.empty() || targets.size() > AliasStore::kMostTargets) {
    return InvalidField("alias.targets", absl::StrCat("must be 1 to ", AliasStore::kMostTargets));
  }
  std::set<std::string> seen;
  for (size_t i = 0; i < targets.size(); ++i) {
    const std::string field = absl::StrCat("alias.targets[", i, "]");
    ATTUNE_RETURN_IF_ERROR(CheckId(targets[i].model, absl::StrCat(field, ".model")));
    if (!seen.insert(targets[i].model).second) return InvalidField(field, "must be distinct from the others");
    if (targets[i].weight < 1 || targets[i].weight > AliasStore::kMostWeight) {
      return InvalidField(absl::StrCat(field, ".weight"), absl::StrCat("must be 1 to ", AliasStore::kMostWeight));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckEtag(const Alias& alias, absl::string_view etag) {
  if (etag.empty() || etag == alias.etag) return absl::OkStatus();
  return MakeError(absl::StatusCode::kAborted, "ETAG_MISMATCH",
                   absl::StrCat("'", Name(alias.id), "' has changed since it was read; read it again."),
                   {{"name", Name(alias.id)}});
}

absl::StatusOr<bool> IsModel(Transaction& transaction, absl::string_view id) {
  bool found = false;
  ATTUNE_RETURN_IF_ERROR(
      transaction.Run("SELECT 1 FROM models WHERE id = ?1", {id}, [&](const DatabaseRow&) { found = true; }));
  return found;
}

absl::Status ReadSettings(Transaction& transaction, Alias* alias) {
  absl::Status decoded;
  ATTUNE_RETURN_IF_ERROR(transaction.Run(
      "SELECT revision, before, targets, set_time FROM alias_settings WHERE alias = ?1 ORDER BY revision DESC",
      {alias->id}, [&](const DatabaseRow& row) {
        absl::StatusOr<std::vector<AliasTarget>> targets = DecodeTargets(row.Text(2));
        if (!targets.ok()) {
          decoded = targets.status();
          return;
        }
        alias->settings.push_back({row.Int(0), row.Int(1), *std::move(targets), absl::FromUnixMicros(row.Int(3))});
      }));
  return decoded;
}

absl::StatusOr<std::vector<Alias>> Select(Transaction& transaction, absl::string_view condition,
                                          const std::vector<DatabaseValue>& parameters) {
  std::vector<Alias> found;
  ATTUNE_RETURN_IF_ERROR(
      transaction.Run(absl::StrCat("SELECT position, id, revision, create_time FROM aliases ", condition), parameters,
                      [&](const DatabaseRow& row) {
                        Alias alias;
                        alias.position = row.Int(0);
                        alias.id = row.Text(1);
                        alias.etag = Etag(row.Int(0), row.Int(2));
                        alias.create_time = absl::FromUnixMicros(row.Int(3));
                        found.push_back(std::move(alias));
                      }));
  for (Alias& alias : found) ATTUNE_RETURN_IF_ERROR(ReadSettings(transaction, &alias));
  return found;
}

absl::StatusOr<Alias> SelectOne(Transaction& transaction, absl::string_view id) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Alias> found, Select(transaction, "WHERE id = ?1", {id}));
  if (found.empty()) return NotFound(Name(id));
  return std::move(found[0]);
}

// Whether an earlier call made this change already.
absl::StatusOr<bool> WasDone(Transaction& transaction, absl::string_view request_id, absl::string_view request) {
  std::string first, alias;
  ATTUNE_RETURN_IF_ERROR(
      transaction.Run("SELECT request, alias FROM alias_settings WHERE request_id = ?1 AND request_id != ''",
                      {request_id}, [&](const DatabaseRow& row) {
                        first = row.Text(0);
                        alias = row.Text(1);
                      }));
  if (first.empty() || first == request) return !first.empty();
  return MakeError(
      absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
      absl::StrCat("The request id '", request_id, "' was used for another change, of '", Name(alias), "'."));
}

// What a setting is made by.
struct Request {
  absl::string_view id, text;
  absl::Time time;
};

absl::Status AddSetting(Transaction& transaction, absl::string_view alias, const AliasSetting& setting,
                        const Request& request) {
  ATTUNE_RETURN_IF_ERROR(
      transaction.Run("INSERT INTO alias_settings (alias, revision, before, targets, set_time, request_id, request)"
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                      {alias, setting.revision, setting.before, EncodeTargets(setting.targets),
                       absl::ToUnixMicros(request.time), request.id, request.text}));
  ATTUNE_RETURN_IF_ERROR(transaction.Run("UPDATE aliases SET revision = ?2 WHERE id = ?1", {alias, setting.revision}));
  return transaction.Run("DELETE FROM alias_settings WHERE alias = ?1 AND revision <= ?2",
                         {alias, setting.revision - AliasStore::kKeptSettings});
}

absl::Status CheckNames(Transaction& transaction, absl::string_view id, const std::vector<AliasTarget>& targets) {
  ATTUNE_ASSIGN_OR_RETURN(const bool is_model, IsModel(transaction, id));
  if (is_model) {
    return MakeError(absl::StatusCode::kAlreadyExists, "MODEL_EXISTS",
                     absl::StrCat("'", kModels, "/", id, "' is a model; an alias needs a name of its own."),
                     {{"name", absl::StrCat(kModels, "/", id)}});
  }
  for (const AliasTarget& target : targets) {
    ATTUNE_ASSIGN_OR_RETURN(const bool is_there, IsModel(transaction, target.model));
    if (!is_there) return NoSuchModel(transaction, target.model);
  }
  return absl::OkStatus();
}

absl::Status SetIn(Transaction& transaction, absl::string_view id, const std::vector<AliasTarget>& targets,
                   absl::string_view etag, const Request& request) {
  const absl::StatusOr<Alias> present = SelectOne(transaction, id);
  const bool is_new = absl::IsNotFound(present.status()) && etag.empty();
  if (!present.ok() && !is_new) return present.status();
  if (!is_new) ATTUNE_RETURN_IF_ERROR(CheckEtag(*present, etag));
  ATTUNE_RETURN_IF_ERROR(CheckNames(transaction, id, targets));
  if (is_new) {
    ATTUNE_RETURN_IF_ERROR(transaction.Run("INSERT INTO aliases (id, revision, create_time) VALUES (?1, 0, ?2)",
                                           {id, absl::ToUnixMicros(request.time)}));
  } else if (present->settings[0].targets == targets) {
    return absl::OkStatus();
  }
  const int64_t before = is_new ? 0 : present->settings[0].revision;
  return AddSetting(transaction, id, {before + 1, before, targets, request.time}, request);
}

// The setting that a roll-back restores, with its revision.
absl::StatusOr<AliasSetting> EarlierSetting(Transaction& transaction, const Alias& alias) {
  for (const AliasSetting& setting : alias.settings) {
    if (setting.revision != alias.settings[0].before) continue;
    for (const AliasTarget& target : setting.targets) {
      ATTUNE_ASSIGN_OR_RETURN(const bool is_there, IsModel(transaction, target.model));
      if (is_there) continue;
      return MakeError(absl::StatusCode::kFailedPrecondition, "TARGET_DELETED",
                       absl::StrCat("The setting before sent requests to '", kModels, "/", target.model,
                                    "', which was deleted; set '", Name(alias.id), "' to other models."),
                       {{"name", Name(alias.id)}, {"model", absl::StrCat(kModels, "/", target.model)}});
    }
    return setting;
  }
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_EARLIER_SETTING",
                   absl::StrCat("No setting of '", Name(alias.id), "' before the present one is known."),
                   {{"name", Name(alias.id)}});
}

absl::Status RollBackIn(Transaction& transaction, absl::string_view id, absl::string_view etag,
                        const Request& request) {
  ATTUNE_ASSIGN_OR_RETURN(const Alias present, SelectOne(transaction, id));
  ATTUNE_RETURN_IF_ERROR(CheckEtag(present, etag));
  ATTUNE_ASSIGN_OR_RETURN(AliasSetting setting, EarlierSetting(transaction, present));
  setting.revision = present.settings[0].revision + 1;
  return AddSetting(transaction, id, setting, request);
}

}  // namespace

absl::StatusOr<std::unique_ptr<AliasStore>> AliasStore::Open(Database* database, const Clock* clock) {
  ATTUNE_RETURN_IF_ERROR(MakeAliasTables(database));
  auto store = std::unique_ptr<AliasStore>(new AliasStore(database, clock));
  ATTUNE_RETURN_IF_ERROR(store->Load());
  return store;
}

absl::Status AliasStore::Load() {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Alias> aliases,
                          List(std::numeric_limits<int>::max(), std::numeric_limits<int64_t>::max()));
  for (const Alias& alias : aliases) SetRoute(alias);
  return absl::OkStatus();
}

void AliasStore::SetRoute(const Alias& alias) {
  auto targets = std::make_shared<const std::vector<AliasTarget>>(alias.settings[0].targets);
  absl::MutexLock lock(&routes_mutex_);
  routes_[alias.id] = std::move(targets);
}

absl::StatusOr<Alias> AliasStore::Change(absl::string_view id, absl::string_view request_id, absl::string_view request,
                                         const std::function<absl::Status(Database::Transaction&)>& change) {
  absl::MutexLock lock(&change_mutex_);
  Alias changed;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(const bool was_done, WasDone(transaction, request_id, request));
    if (!was_done) ATTUNE_RETURN_IF_ERROR(change(transaction));
    ATTUNE_ASSIGN_OR_RETURN(changed, SelectOne(transaction, id));
    return absl::OkStatus();
  }));
  SetRoute(changed);
  LogInfo("alias.set", {{"alias", Name(id)}, {"targets", EncodeTargets(changed.settings[0].targets)}});
  return changed;
}

absl::StatusOr<Alias> AliasStore::Set(absl::string_view id, const std::vector<AliasTarget>& targets,
                                      absl::string_view etag, absl::string_view request_id) {
  ATTUNE_RETURN_IF_ERROR(CheckId(id, "alias.name"));
  ATTUNE_RETURN_IF_ERROR(CheckTargets(targets));
  const std::string request = absl::StrCat("set ", id, " ", EncodeTargets(targets));
  return Change(id, request_id, request, [&](Transaction& transaction) {
    return SetIn(transaction, id, targets, etag, {request_id, request, clock_->Now()});
  });
}

absl::StatusOr<Alias> AliasStore::RollBack(absl::string_view id, absl::string_view etag, absl::string_view request_id) {
  const std::string request = absl::StrCat("roll back ", id);
  return Change(id, request_id, request, [&](Transaction& transaction) {
    return RollBackIn(transaction, id, etag, {request_id, request, clock_->Now()});
  });
}

absl::Status AliasStore::Delete(absl::string_view id, absl::string_view etag) {
  absl::MutexLock lock(&change_mutex_);
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(const Alias alias, SelectOne(transaction, id));
    ATTUNE_RETURN_IF_ERROR(CheckEtag(alias, etag));
    ATTUNE_RETURN_IF_ERROR(transaction.Run("DELETE FROM alias_settings WHERE alias = ?1", {id}));
    return transaction.Run("DELETE FROM aliases WHERE id = ?1", {id});
  }));
  LogInfo("alias.deleted", {{"alias", Name(id)}});
  absl::MutexLock routes_lock(&routes_mutex_);
  routes_.erase(std::string(id));
  return absl::OkStatus();
}

absl::StatusOr<Alias> AliasStore::Get(absl::string_view id) const {
  Alias found;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(found, SelectOne(transaction, id));
    return absl::OkStatus();
  }));
  return found;
}

absl::StatusOr<std::vector<Alias>> AliasStore::List(int limit, int64_t before_position) const {
  std::vector<Alias> found;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(
        found, Select(transaction, "WHERE position < ?1 ORDER BY position DESC LIMIT ?2", {before_position, limit}));
    return absl::OkStatus();
  }));
  return found;
}

std::string AliasStore::Route(absl::string_view id, absl::string_view key) const {
  Targets targets;
  {
    absl::MutexLock lock(&routes_mutex_);
    const auto found = routes_.find(id);
    if (found == routes_.end()) return std::string(id);
    targets = found->second;
  }
  if (!key.empty()) return ChooseTarget(*targets, key).model;
  absl::BitGen random;
  return ChooseTarget(*targets, absl::StrCat(absl::Uniform<uint64_t>(random))).model;
}

}  // namespace attune
