#include "server/adapters/alias_table.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune {
namespace {

using Transaction = Database::Transaction;

constexpr char kMakeAliases[] =
    "CREATE TABLE IF NOT EXISTS aliases (position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " revision INTEGER NOT NULL, create_time INTEGER NOT NULL)";
constexpr char kMakeSettings[] =
    "CREATE TABLE IF NOT EXISTS alias_settings (alias TEXT NOT NULL, revision INTEGER NOT NULL, before INTEGER NOT "
    "NULL,"
    " targets TEXT NOT NULL, set_time INTEGER NOT NULL, request_id TEXT NOT NULL, request TEXT NOT NULL,"
    " PRIMARY KEY (alias, revision)) WITHOUT ROWID";
constexpr char kMakeRequestIndex[] =
    "CREATE UNIQUE INDEX IF NOT EXISTS alias_settings_by_request ON alias_settings (request_id) WHERE request_id != ''";
// Settings in force.
constexpr char kSelectCurrent[] =
    "SELECT a.id, s.targets FROM aliases a JOIN alias_settings s ON s.alias = a.id AND s.revision = a.revision ";

std::string Name(absl::string_view id) { return absl::StrCat(kModels, "/", id); }

}  // namespace

absl::Status MakeAliasTables(Database* database) {
  for (const char* statement : {kMakeAliases, kMakeSettings, kMakeRequestIndex}) {
    ATTUNE_RETURN_IF_ERROR(database->Run(statement));
  }
  return absl::OkStatus();
}

std::string EncodeTargets(const std::vector<AliasTarget>& targets) {
  return absl::StrJoin(targets, ",", [](std::string* out, const AliasTarget& target) {
    absl::StrAppend(out, target.model, "=", target.weight);
  });
}

absl::StatusOr<std::vector<AliasTarget>> DecodeTargets(absl::string_view text) {
  std::vector<AliasTarget> targets;
  for (absl::string_view item : absl::StrSplit(text, ',')) {
    const std::vector<std::string> parts = absl::StrSplit(item, '=');
    int64_t weight = 0;
    if (parts.size() != 2 || parts[0].empty() || !absl::SimpleAtoi(parts[1], &weight) || weight < 1) {
      return MakeError(absl::StatusCode::kInternal, "CORRUPT_ALIAS",
                       absl::StrCat("'", text, "' are no alias's targets."));
    }
    targets.push_back({parts[0], weight});
  }
  return targets;
}

template <typename Runner>
absl::Status CheckIdIsNoAlias(Runner& runner, absl::string_view id) {
  bool found = false;
  ATTUNE_RETURN_IF_ERROR(
      runner.Run("SELECT 1 FROM aliases WHERE id = ?1", {id}, [&](const DatabaseRow&) { found = true; }));
  if (!found) return absl::OkStatus();
  return MakeError(absl::StatusCode::kAlreadyExists, "ALIAS_EXISTS",
                   absl::StrCat("'", Name(id), "' is there already, as an alias."), {{"name", Name(id)}});
}

template <typename Runner>
absl::Status CheckIsNoTarget(Runner& runner, absl::string_view model) {
  std::string alias;
  ATTUNE_RETURN_IF_ERROR(runner.Run(
      absl::StrCat(kSelectCurrent, "WHERE instr(',' || s.targets, ',' || ?1 || '=') > 0 ORDER BY a.position LIMIT 1"),
      {model}, [&](const DatabaseRow& row) { alias = row.Text(0); }));
  if (alias.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_IN_USE",
                   absl::StrCat("The alias '", kAliases, "/", alias, "' sends requests to '", Name(model),
                                "'; set it to another model, or delete it, first."),
                   {{"name", Name(model)}, {"alias", absl::StrCat(kAliases, "/", alias)}});
}

template <typename Runner>
absl::Status NoSuchModel(Runner& runner, absl::string_view id) {
  std::string encoded;
  ATTUNE_RETURN_IF_ERROR(runner.Run(absl::StrCat(kSelectCurrent, "WHERE a.id = ?1"), {id},
                                    [&](const DatabaseRow& row) { encoded = row.Text(1); }));
  if (encoded.empty()) return NotFound(Name(id));
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<AliasTarget> targets, DecodeTargets(encoded));
  const std::string names = absl::StrJoin(
      targets, ",", [](std::string* out, const AliasTarget& target) { absl::StrAppend(out, Name(target.model)); });
  return MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_IS_ALIAS",
                   absl::StrCat("'", Name(id), "' is an alias of ", absl::StrJoin(absl::StrSplit(names, ','), ", "),
                                "; this needs the model itself."),
                   {{"name", Name(id)}, {"targets", names}});
}

template absl::Status CheckIdIsNoAlias(Database&, absl::string_view);
template absl::Status CheckIdIsNoAlias(Transaction&, absl::string_view);
template absl::Status CheckIsNoTarget(Database&, absl::string_view);
template absl::Status CheckIsNoTarget(Transaction&, absl::string_view);
template absl::Status NoSuchModel(Database&, absl::string_view);
template absl::Status NoSuchModel(Transaction&, absl::string_view);

}  // namespace attune
