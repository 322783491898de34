#ifndef ATTUNE_SERVER_MODEL_CONFIG_JSON_ATTENTION_H_
#define ATTUNE_SERVER_MODEL_CONFIG_JSON_ATTENTION_H_

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "server/model/config.h"
#include "server/model/config_json_fields.h"
#include "server/model/families.h"

// What a config.json says of positions and of what tokens see. Errors as of ConfigFromJson.
namespace attune {

// `rope_theta` and `rope_scaling`, or both in `rope_parameters` (transformers 5), there by the layers' types where these have
// angles of their own.
absl::Status ReadRope(ConfigFields* fields, const ModelFamily& family, ModelConfig* config);
// Which layers have a window. The rest of the shape must be there.
absl::Status ReadWindows(ConfigFields* fields, const ModelFamily& family, ModelConfig* config);

// Adds what those read.
void AddRope(const ModelConfig& config, nlohmann::ordered_json* json);
void AddWindows(const ModelConfig& config, const ModelFamily& family, nlohmann::ordered_json* json);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_CONFIG_JSON_ATTENTION_H_
