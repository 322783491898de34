#include "server/comparison/comparison_store.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/comparison/comparison_json.h"

namespace attune {
namespace {

using Transaction = Database::Transaction;

constexpr char kMakeComparisons[] =
    "CREATE TABLE IF NOT EXISTS comparisons (position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " request_id TEXT NOT NULL, request TEXT NOT NULL, state INTEGER NOT NULL, record TEXT NOT NULL)";
constexpr char kMakeRequestIndex[] =
    "CREATE UNIQUE INDEX IF NOT EXISTS comparisons_by_request ON comparisons (request_id) WHERE request_id != ''";
constexpr char kMakeNotes[] =
    "CREATE TABLE IF NOT EXISTS comparison_notes (comparison TEXT NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL,"
    " PRIMARY KEY (comparison, key)) WITHOUT ROWID";

// `Runner` is a Database or a Transaction.
template <typename Runner>
absl::StatusOr<std::vector<Comparison>> Select(Runner& runner, absl::string_view where,
                                               const std::vector<DatabaseValue>& parameters) {
  std::vector<Comparison> found;
  absl::Status bad;
  ATTUNE_RETURN_IF_ERROR(runner.Run(absl::StrCat("SELECT position, record FROM comparisons ", where), parameters,
                                    [&](const DatabaseRow& row) {
                                      absl::StatusOr<Comparison> comparison = ComparisonFromJson(row.Text(1));
                                      if (!comparison.ok()) {
                                        bad = comparison.status();
                                        return;
                                      }
                                      comparison->position = row.Int(0);
                                      found.push_back(*std::move(comparison));
                                    }));
  if (!bad.ok()) return bad;
  return found;
}

template <typename Runner>
absl::StatusOr<Comparison> SelectOne(Runner& runner, absl::string_view id) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Comparison> found, Select(runner, "WHERE id = ?1", {id}));
  if (found.empty()) return NotFound(absl::StrCat(kComparisons, "/", id));
  return std::move(found.front());
}

// The id that an earlier call with this request id made; empty if none did.
absl::StatusOr<std::string> FindRequest(Transaction& transaction, absl::string_view request_id,
                                        absl::string_view request) {
  std::string id, first;
  ATTUNE_RETURN_IF_ERROR(transaction.Run(
      "SELECT id, request FROM comparisons WHERE request_id = ?1 AND request_id != ''", {request_id},
      [&](const DatabaseRow& row) {
        id = row.Text(0);
        first = row.Text(1);
      }));
  if (id.empty() || first == request) return id;
  return MakeError(absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
                   absl::StrCat("The request id '", request_id, "' was used for another comparison, '", id, "'."));
}

template <typename Needs>
absl::StatusOr<std::vector<std::string>> ActiveUsers(const ComparisonStore& store, Needs needs) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<Comparison> unfinished, store.Unfinished());
  std::vector<std::string> users;
  for (const Comparison& comparison : unfinished) {
    if (needs(comparison)) users.push_back(comparison.spec.id);
  }
  return users;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ComparisonStore>> ComparisonStore::Open(Database* database, const Clock* clock) {
  for (const char* statement : {kMakeComparisons, kMakeRequestIndex, kMakeNotes}) {
    ATTUNE_RETURN_IF_ERROR(database->Run(statement));
  }
  return std::unique_ptr<ComparisonStore>(new ComparisonStore(database, clock));
}

absl::StatusOr<Comparison> ComparisonStore::Create(ComparisonSpec spec, absl::string_view request_id) {
  const std::string request = ComparisonSpecToJson(spec);
  Comparison made;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string earlier, FindRequest(transaction, request_id, request));
    if (!earlier.empty()) {
      ATTUNE_ASSIGN_OR_RETURN(made, SelectOne(transaction, earlier));
      return absl::OkStatus();
    }
    if (spec.id.empty()) spec.id = RandomId("comparison");
    if (SelectOne(transaction, spec.id).ok()) {
      return MakeError(absl::StatusCode::kAlreadyExists, "COMPARISON_EXISTS",
                       absl::StrCat("There is a comparison '", spec.id, "' already."));
    }
    made.spec = spec;
    made.state_reason = "waiting for its turn";
    made.create_time = clock_->Now();
    made.version = 1;
    for (ContenderKind kind : spec.contenders) made.contenders.push_back({.kind = kind});
    return transaction.Run("INSERT INTO comparisons (id, request_id, request, state, record) VALUES (?1, ?2, ?3, ?4, ?5)",
                           {spec.id, request_id, request, static_cast<int>(made.state), ComparisonToJson(made)});
  }));
  return Get(made.spec.id);
}

absl::StatusOr<Comparison> ComparisonStore::Get(absl::string_view id) const { return SelectOne(*database_, id); }

absl::StatusOr<std::vector<Comparison>> ComparisonStore::List(int limit, int64_t before_position) const {
  return Select(*database_, "WHERE position < ?1 ORDER BY position DESC LIMIT ?2", {before_position, limit});
}

absl::StatusOr<std::vector<Comparison>> ComparisonStore::Unfinished() const {
  return Select(*database_, "WHERE state IN (1, 2) ORDER BY position", {});
}

absl::StatusOr<std::vector<std::string>> ComparisonStore::ActiveUsersOfDataset(absl::string_view dataset) const {
  return ActiveUsers(*this, [&](const Comparison& c) {
    const bool is_part = !c.prefix.empty() && absl::StartsWith(dataset, absl::StrCat(c.prefix, "-"));
    return is_part || dataset == c.spec.dataset || dataset == c.spec.validation_dataset || dataset == c.spec.test_dataset ||
           dataset == c.spec.retention_dataset;
  });
}

absl::StatusOr<std::vector<std::string>> ComparisonStore::ActiveUsersOfModel(absl::string_view model) const {
  return ActiveUsers(*this, [&](const Comparison& c) {
    const bool is_trial = !c.prefix.empty() && absl::StartsWith(model, absl::StrCat(c.prefix, "-"));
    return is_trial || model == c.spec.base_model || model == c.spec.judge_model;
  });
}

absl::StatusOr<std::vector<std::string>> ComparisonStore::ActiveNamersOfModel(absl::string_view model) const {
  return ActiveUsers(*this,
                     [&](const Comparison& c) { return model == c.spec.base_model || model == c.spec.judge_model; });
}

absl::StatusOr<Comparison> ComparisonStore::Update(absl::string_view id,
                                                   const std::function<absl::Status(Comparison&)>& change) {
  Comparison updated;
  ATTUNE_RETURN_IF_ERROR(database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(updated, SelectOne(transaction, id));
    ATTUNE_RETURN_IF_ERROR(change(updated));
    ++updated.version;
    return transaction.Run("UPDATE comparisons SET state = ?2, record = ?3 WHERE id = ?1",
                           {id, static_cast<int>(updated.state), ComparisonToJson(updated)});
  }));
  return updated;
}

absl::Status ComparisonStore::Delete(absl::string_view id) {
  return database_->RunTransaction([&](Transaction& transaction) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, SelectOne(transaction, id));
    if (!IsFinal(comparison.state)) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "COMPARISON_NOT_ENDED",
                       absl::StrCat("The comparison '", id, "' has not ended; cancel it first."));
    }
    ATTUNE_RETURN_IF_ERROR(transaction.Run("DELETE FROM comparison_notes WHERE comparison = ?1", {id}));
    return transaction.Run("DELETE FROM comparisons WHERE id = ?1", {id});
  });
}

absl::Status ComparisonStore::PutNote(absl::string_view id, absl::string_view key, absl::string_view text) {
  return database_->Run("INSERT OR REPLACE INTO comparison_notes (comparison, key, text) VALUES (?1, ?2, ?3)",
                        {id, key, text});
}

absl::StatusOr<std::string> ComparisonStore::GetNote(absl::string_view id, absl::string_view key) const {
  std::string text;
  ATTUNE_RETURN_IF_ERROR(database_->Run("SELECT text FROM comparison_notes WHERE comparison = ?1 AND key = ?2",
                                        {id, key}, [&](const DatabaseRow& row) { text = row.Text(0); }));
  return text;
}

}  // namespace attune
