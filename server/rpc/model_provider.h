#ifndef ATTUNE_SERVER_RPC_MODEL_PROVIDER_H_
#define ATTUNE_SERVER_RPC_MODEL_PROVIDER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/alias_store.h"
#include "server/adapters/residency.h"
#include "server/metrics/metrics.h"

namespace attune {

// Gives the model that answers a request for `id`, in memory. Where `id` is an alias's, requests with the same `key`
// get the same model while the alias's weights stay; an empty key gets one by chance. Thread-safe.
using ModelProvider =
    std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id, absl::string_view key)>;

// The one place where an alias becomes a model. `acquire` gives a model by its own id, e.g. Residency::Acquire.
// `aliases` and `metrics`, which counts by alias and model, must outlive the provider.
ModelProvider MakeModelProvider(
    const AliasStore* aliases, Metrics* metrics,
    std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)> acquire);

// "models/{id}" of the model itself.
std::string ModelName(const ServedModel& model);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_MODEL_PROVIDER_H_
