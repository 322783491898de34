#ifndef ATTUNE_SERVER_MODEL_CONFIG_CHECK_H_
#define ATTUNE_SERVER_MODEL_CONFIG_CHECK_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/config.h"
#include "server/model/families.h"

namespace attune {

// What the readers of configurations refuse with, both INVALID_ARGUMENT: BAD_MODEL for an impossible value,
// UNSUPPORTED_MODEL for what the decoder does not do.
absl::Status ImpossibleModel(absl::string_view message);
absl::Status UnsupportedModel(absl::string_view feature);

// BAD_MODEL unless low <= value <= high.
absl::Status CheckRange(absl::string_view name, double value, double low, double high);

// Beyond these a value is an error or an attack.
absl::Status CheckHeads(absl::string_view name, int64_t heads);
absl::Status CheckLayers(int64_t layers);
absl::Status CheckHeadDim(int64_t head_dim);

// Sets what every model of the family's layers have.
void TakeFamilyLayers(const ModelFamily& family, ModelConfig* config);

// The configuration, if each of its values is possible and they fit together.
absl::StatusOr<ModelConfig> Checked(ModelConfig config);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_CONFIG_CHECK_H_
