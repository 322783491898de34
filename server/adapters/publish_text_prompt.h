#ifndef ATTUNE_SERVER_ADAPTERS_PUBLISH_TEXT_PROMPT_H_
#define ATTUNE_SERVER_ADAPTERS_PUBLISH_TEXT_PROMPT_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/adapters/registry.h"
#include "server/data/text_prompt.h"

// No torch headers here: gRPC handlers include this file.
namespace attune {

// Makes a text prompt over `info.base_model` the model `info.id`; kind, templates and network
// are set here. Errors of ModelRegistry::Publish and MakePromptTemplate; NOT_FOUND for the base
// model, FAILED_PRECONDITION (BASE_IS_ADAPTER) if it has no weights of its own.
absl::StatusOr<ModelInfo> PublishTextPrompt(ModelRegistry* registry, ModelInfo info, const TextPrompt& prompt,
                                            const std::string& request_id = "");

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_PUBLISH_TEXT_PROMPT_H_
