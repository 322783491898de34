#include "server/rpc/model_provider.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/resource_name.h"

namespace attune {

ModelProvider MakeModelProvider(
    const AliasStore* aliases, Metrics* metrics,
    std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)> acquire) {
  return [aliases, metrics, acquire = std::move(acquire)](
             absl::string_view id, absl::string_view key) -> absl::StatusOr<std::shared_ptr<const ServedModel>> {
    std::string target = aliases->Route(id, key);
    absl::StatusOr<std::shared_ptr<const ServedModel>> model = acquire(target);
    if (target == id) return model;
    if (absl::IsNotFound(model.status())) {
      // Between the two the alias was set to another model, and this one deleted.
      target = aliases->Route(id, key);
      model = acquire(target);
    }
    if (model.ok()) metrics->AliasRequest(id, target);
    return model;
  };
}

std::string ModelName(const ServedModel& model) { return absl::StrCat(kModels, "/", model.info.id); }

}  // namespace attune
