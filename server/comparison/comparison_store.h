#ifndef ATTUNE_SERVER_COMPARISON_COMPARISON_STORE_H_
#define ATTUNE_SERVER_COMPARISON_COMPARISON_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/database.h"
#include "server/comparison/comparison.h"

namespace attune {

// Comparisons in the database's table `comparisons`, each one record, and what their runs note down in
// `comparison_notes`. What a call returned OK for survives a crash. NOT_FOUND (COMPARISON_NOT_FOUND)
// for unknown ids. Thread-safe.
class ComparisonStore {
 public:
  // Makes the tables if needed. `database` and `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<ComparisonStore>> Open(Database* database, const Clock* clock);

  // Queues one. An empty spec.id is made up. With a `request_id` (empty: none) that an earlier call gave with the
  // same spec: that call's comparison. ALREADY_EXISTS: REQUEST_ID_REUSED (with another spec), COMPARISON_EXISTS.
  absl::StatusOr<Comparison> Create(ComparisonSpec spec, absl::string_view request_id);
  absl::StatusOr<Comparison> Get(absl::string_view id) const;
  // Newest first, below `before_position` (INT64_MAX: from the newest), at most `limit`.
  absl::StatusOr<std::vector<Comparison>> List(int limit, int64_t before_position) const;
  // Those not in a final state, oldest first.
  absl::StatusOr<std::vector<Comparison>> Unfinished() const;

  // Ids of the unfinished ones that need that dataset, or that model.
  absl::StatusOr<std::vector<std::string>> ActiveUsersOfDataset(absl::string_view dataset) const;
  absl::StatusOr<std::vector<std::string>> ActiveUsersOfModel(absl::string_view model) const;
  // Those alone that name it as their base model or judge; not the one that has made it.
  absl::StatusOr<std::vector<std::string>> ActiveNamersOfModel(absl::string_view model) const;

  // Applies `change` in a transaction and returns the result, its version one higher. Nothing is written if
  // `change` fails. `change` must not call the store.
  absl::StatusOr<Comparison> Update(absl::string_view id, const std::function<absl::Status(Comparison&)>& change);
  // FAILED_PRECONDITION (COMPARISON_NOT_ENDED).
  absl::Status Delete(absl::string_view id);

  // Text that a run keeps under a key, so that a resumed one need not ask again; empty if there is none.
  absl::Status PutNote(absl::string_view id, absl::string_view key, absl::string_view text);
  absl::StatusOr<std::string> GetNote(absl::string_view id, absl::string_view key) const;

 private:
  ComparisonStore(Database* database, const Clock* clock) : database_(database), clock_(clock) {}

  Database* const database_;
  const Clock* const clock_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_COMPARISON_STORE_H_
