#ifndef ATTUNE_SERVER_ADAPTERS_INSPECT_H_
#define ATTUNE_SERVER_ADAPTERS_INSPECT_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/adapters/model_info.h"

namespace attune {

// Checks the files of a base model in a folder, as ModelRegistry::Options::inspect:
// the configuration is supported, every tensor is there in its shape and the tokenizer
// loads. The readers' errors; INVALID_ARGUMENT (BAD_MODEL) if the parts do not fit.
absl::StatusOr<Architecture> InspectModel(const std::string& directory);

// Checks an adapter in PEFT's files against the base model whose files are in another folder, as
// ModelRegistry::Options::inspect_adapter: what it is. LoadPeft's errors, and those of the base model's configuration.
absl::StatusOr<ModelKind> InspectAdapter(const std::string& directory, const std::string& base_directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_INSPECT_H_
