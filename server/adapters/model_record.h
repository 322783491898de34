#ifndef ATTUNE_SERVER_ADAPTERS_MODEL_RECORD_H_
#define ATTUNE_SERVER_ADAPTERS_MODEL_RECORD_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/model_info.h"

namespace attune {

// A model's description as JSON text, for its database row. id, base_model,
// tuning_job, etag and position have columns of their own and are left out.
std::string EncodeModelRecord(const ModelInfo& info);

// INTERNAL (DATABASE_ERROR) if the text is damaged.
absl::StatusOr<ModelInfo> DecodeModelRecord(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_MODEL_RECORD_H_
