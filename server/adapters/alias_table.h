#ifndef ATTUNE_SERVER_ADAPTERS_ALIAS_TABLE_H_
#define ATTUNE_SERVER_ADAPTERS_ALIAS_TABLE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/database.h"
#include "server/adapters/alias.h"

// The tables `aliases` and `alias_settings`, as AliasStore writes them and ModelRegistry looks at them within its own
// transactions: models and aliases share one set of ids. `Runner` is Database or Database::Transaction.
namespace attune {

absl::Status MakeAliasTables(Database* database);

// Targets as the tables hold them, and back: "a=90,b=10".
std::string EncodeTargets(const std::vector<AliasTarget>& targets);
// INTERNAL (CORRUPT_ALIAS) for what EncodeTargets did not write.
absl::StatusOr<std::vector<AliasTarget>> DecodeTargets(absl::string_view text);

// ALREADY_EXISTS (ALIAS_EXISTS) if `id` is an alias's.
template <typename Runner>
absl::Status CheckIdIsNoAlias(Runner& runner, absl::string_view id);

// FAILED_PRECONDITION (MODEL_IN_USE), naming the alias, if one sends requests to the model now.
template <typename Runner>
absl::Status CheckIsNoTarget(Runner& runner, absl::string_view model);

// What to say where a model is asked for and `id` is none: FAILED_PRECONDITION (MODEL_IS_ALIAS), naming the targets, of
// an alias, else NOT_FOUND.
template <typename Runner>
absl::Status NoSuchModel(Runner& runner, absl::string_view id);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_ALIAS_TABLE_H_
