#ifndef ATTUNE_SERVER_RPC_MODEL_PROVIDER_H_
#define ATTUNE_SERVER_RPC_MODEL_PROVIDER_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/residency.h"

namespace attune {

// Gives the model with an id, in memory; Residency::Acquire, or a test's own.
using ModelProvider = std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)>;

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_MODEL_PROVIDER_H_
