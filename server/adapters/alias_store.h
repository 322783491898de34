#ifndef ATTUNE_SERVER_ADAPTERS_ALIAS_STORE_H_
#define ATTUNE_SERVER_ADAPTERS_ALIAS_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/database.h"
#include "server/adapters/alias.h"

namespace attune {

// Aliases in the database's tables `aliases` and `alias_settings`; what requests are sent by is kept in memory, too.
// What a call returned OK for survives a crash, and holds for every later Route. NOT_FOUND (ALIAS_NOT_FOUND) for
// unknown ids. An `etag` that is set and stale gives ABORTED (ETAG_MISMATCH). A `request_id` (empty: none) that an
// earlier call gave with the same request changes nothing and returns the alias as it is; with another request
// ALREADY_EXISTS (REQUEST_ID_REUSED). Thread-safe.
class AliasStore {
 public:
  static constexpr int kMostTargets = 4;
  static constexpr int64_t kMostWeight = 1'000'000;
  // Settings that are kept of an alias, the one in force among them.
  static constexpr int64_t kKeptSettings = 50;

  // Makes the tables if needed. `database`, which ModelRegistry has opened before, and `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<AliasStore>> Open(Database* database, const Clock* clock);

  // Makes the alias, or sends its requests elsewhere from now on; what is set already makes no new setting. 1 to 4
  // distinct targets with weights of 1 to 1,000,000. INVALID_ARGUMENT; NOT_FOUND (MODEL_NOT_FOUND) and
  // FAILED_PRECONDITION (MODEL_IS_ALIAS) for a target that is no model; ALREADY_EXISTS (MODEL_EXISTS) if `id` is a
  // model's.
  absl::StatusOr<Alias> Set(absl::string_view id, const std::vector<AliasTarget>& targets, absl::string_view etag,
                            absl::string_view request_id) ABSL_LOCKS_EXCLUDED(change_mutex_, routes_mutex_);
  // Restores the setting that was in force before the present one was set; again, the one before that. That is a new
  // setting itself. FAILED_PRECONDITION: NO_EARLIER_SETTING; TARGET_DELETED if a model of it is gone.
  absl::StatusOr<Alias> RollBack(absl::string_view id, absl::string_view etag, absl::string_view request_id)
      ABSL_LOCKS_EXCLUDED(change_mutex_, routes_mutex_);
  // Its history goes, too; its targets stay.
  absl::Status Delete(absl::string_view id, absl::string_view etag) ABSL_LOCKS_EXCLUDED(change_mutex_, routes_mutex_);

  absl::StatusOr<Alias> Get(absl::string_view id) const;
  // Newest first, below `before_position` (INT64_MAX: from the newest), at most `limit`.
  absl::StatusOr<std::vector<Alias>> List(int limit, int64_t before_position) const;

  // The id of the model that answers a request for `id`: of an alias, see ChooseTarget, with an empty key one by
  // chance; any other id itself. Touches no disk.
  std::string Route(absl::string_view id, absl::string_view key) const ABSL_LOCKS_EXCLUDED(routes_mutex_);

 private:
  using Targets = std::shared_ptr<const std::vector<AliasTarget>>;

  AliasStore(Database* database, const Clock* clock) : database_(database), clock_(clock) {}
  absl::Status Load() ABSL_LOCKS_EXCLUDED(routes_mutex_);
  // Runs `change` in a transaction, unless an earlier call with the request id has made it, and routes as it says.
  absl::StatusOr<Alias> Change(absl::string_view id, absl::string_view request_id, absl::string_view request,
                               const std::function<absl::Status(Database::Transaction&)>& change)
      ABSL_LOCKS_EXCLUDED(change_mutex_, routes_mutex_);
  void SetRoute(const Alias& alias) ABSL_LOCKS_EXCLUDED(routes_mutex_);

  Database* const database_;
  const Clock* const clock_;
  absl::Mutex change_mutex_;  // held while rows and routes change, so that they do so in the same order
  mutable absl::Mutex routes_mutex_ ABSL_ACQUIRED_AFTER(change_mutex_);
  std::map<std::string, Targets, std::less<>> routes_ ABSL_GUARDED_BY(routes_mutex_);
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_ALIAS_STORE_H_
