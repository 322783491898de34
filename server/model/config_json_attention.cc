#include "server/model/config_json_attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/config_check.h"

namespace attune {
namespace {

using Json = nlohmann::json;

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";

// As transformers reads it. `context` is the model's: for files that leave the original one out.
void ReadYarn(ConfigFields* fields, int64_t context, RopeScaling* scaling) {
  scaling->kind = RopeScaling::Kind::kYarn;
  const double original = static_cast<double>(context);
  scaling->original_context = fields->Real("original_max_position_embeddings", original);
  scaling->factor = fields->Real("factor", original / scaling->original_context);
  scaling->beta_fast = fields->Real("beta_fast", 32);
  scaling->beta_slow = fields->Real("beta_slow", 1);
  scaling->truncate = fields->Bool("truncate", true);
  const double mscale = fields->Real("mscale", 0), all_dimensions = fields->Real("mscale_all_dim", 0);
  double attention = YarnAttentionFactor(scaling->factor);
  if (mscale != 0 && all_dimensions != 0) {
    attention = YarnAttentionFactor(scaling->factor, mscale) / YarnAttentionFactor(scaling->factor, all_dimensions);
  }
  scaling->attention_factor = fields->Real("attention_factor", attention);
}

absl::StatusOr<std::vector<double>> ReadFactors(const ConfigFields& fields, const char* key) {
  const Json* const list = fields.Find(key);
  std::vector<double> factors;
  if (list == nullptr || !list->is_array()) return ImpossibleModel(absl::StrCat("'", key, "' of LongRoPE is no list"));
  for (const Json& factor : *list) {
    if (!factor.is_number()) return ImpossibleModel(absl::StrCat("'", key, "' of LongRoPE holds what is no number"));
    factors.push_back(factor.get<double>());
  }
  return factors;
}

// As transformers reads it, for sequences of the original context at most.
absl::Status ReadLongRope(const Json& json, const ModelFamily& family, ModelConfig* config) {
  ConfigFields fields(json);
  RopeScaling& scaling = config->rope_scaling;
  scaling.kind = RopeScaling::Kind::kLongRope;
  ATTUNE_ASSIGN_OR_RETURN(scaling.short_factors, ReadFactors(fields, "short_factor"));
  ATTUNE_ASSIGN_OR_RETURN(scaling.long_factors, ReadFactors(fields, "long_factor"));
  const int64_t original = fields.Int("original_max_position_embeddings", family.default_original_context);
  ATTUNE_RETURN_IF_ERROR(fields.status());
  ATTUNE_RETURN_IF_ERROR(CheckRange("original_max_position_embeddings", static_cast<double>(original), 2, 1 << 30));
  scaling.original_context = static_cast<double>(original);
  scaling.stretched_context = config->context;
  scaling.factor = fields.Real("factor", static_cast<double>(config->context) / scaling.original_context);
  const double stretch = std::max(scaling.factor, 1.0);
  scaling.attention_factor =
      fields.Real("attention_factor", std::sqrt(1 + std::log(stretch) / std::log(scaling.original_context)));
  scaling.factor = stretch;  // it is in the attention factor; what is below one changes nothing
  config->context = std::min(config->context, original);
  if (fields.Real("partial_rotary_factor", 1) != 1) return UnsupportedModel("partial_rotary_factor");
  return fields.status();
}

bool IsLongRope(const Json& json) {
  ConfigFields fields(json);
  const std::string type = fields.Text("rope_type", fields.Text("type", "").c_str());
  return type == "longrope" || type == "su";
}

absl::Status ReadScaling(const Json& json, int64_t context, RopeScaling* scaling) {
  ConfigFields fields(json);
  std::string type = fields.Text("rope_type", fields.Text("type", "default").c_str());
  if (type == "linear") {
    scaling->kind = RopeScaling::Kind::kLinear;
    scaling->factor = fields.Real("factor", 1);
  } else if (type == "llama3") {
    scaling->kind = RopeScaling::Kind::kLlama3;
    scaling->factor = fields.Real("factor", 8);
    scaling->low_frequency_factor = fields.Real("low_freq_factor", 1);
    scaling->high_frequency_factor = fields.Real("high_freq_factor", 4);
    scaling->original_context = fields.Real("original_max_position_embeddings", 8192);
  } else if (type == "yarn") {
    ReadYarn(&fields, context, scaling);
  } else if (type != "default" && type != "none") {
    return UnsupportedModel(absl::StrCat("rope scaling of type '", type, "'"));
  }
  if (fields.Real("partial_rotary_factor", 1) != 1) return UnsupportedModel("partial_rotary_factor");
  return fields.status();
}

// Angles of layers that have a window.
absl::Status ReadLocalRope(const Json& json, ModelConfig* config) {
  RopeScaling scaling;
  ATTUNE_RETURN_IF_ERROR(ReadScaling(json, config->context, &scaling));
  if (scaling.kind != RopeScaling::Kind::kNone) {
    return UnsupportedModel(absl::StrCat("rope scaling of layers with ", kSliding));
  }
  ConfigFields fields(json);
  config->local_rope_theta = fields.Real("rope_theta", config->local_rope_theta);
  return fields.status();
}

absl::Status ReadGlobalRope(const Json& json, ConfigFields* fields, const ModelFamily& family, ModelConfig* config) {
  // Where both are, transformers prefers the configuration's own.
  Json scaling = json;
  const Json* const original = fields->Find("original_max_position_embeddings");
  if (original != nullptr) scaling["original_max_position_embeddings"] = *original;
  ConfigFields rope(json);
  config->rope_theta = rope.Real("rope_theta", config->rope_theta);
  ATTUNE_RETURN_IF_ERROR(rope.status());
  if (family.takes_long_rope && IsLongRope(scaling)) return ReadLongRope(scaling, family, config);
  ATTUNE_RETURN_IF_ERROR(ReadScaling(scaling, config->context, &config->rope_scaling));
  if (!family.scales_rope && config->rope_scaling.kind != RopeScaling::Kind::kNone) {
    return UnsupportedModel(absl::StrCat("rope scaling of a ", family.name, " model"));
  }
  return absl::OkStatus();
}

Json ScalingToJson(const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::kLongRope) {
    return {{"rope_type", "longrope"},
            {"short_factor", scaling.short_factors},
            {"long_factor", scaling.long_factors},
            {"factor", scaling.factor},
            {"attention_factor", scaling.attention_factor}};
  }
  if (scaling.kind == RopeScaling::Kind::kYarn) {
    return {{"rope_type", "yarn"},
            {"factor", scaling.factor},
            {"original_max_position_embeddings", static_cast<int64_t>(scaling.original_context)},
            {"beta_fast", scaling.beta_fast},
            {"beta_slow", scaling.beta_slow},
            {"truncate", scaling.truncate},
            {"attention_factor", scaling.attention_factor}};
  }
  if (scaling.kind == RopeScaling::Kind::kLinear) return {{"rope_type", "linear"}, {"factor", scaling.factor}};
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_frequency_factor},
          {"high_freq_factor", scaling.high_frequency_factor},
          {"original_max_position_embeddings", static_cast<int64_t>(scaling.original_context)}};
}

// Tokens of the family's window; 0 if the file asks for none.
int64_t WindowOf(ConfigFields* fields, const ModelFamily& family) {
  const int64_t if_absent = family.window == WindowRule::kUnlessAbsent ? 0 : kDefaultWindow;
  if (family.window == WindowRule::kNever) return 0;
  if (family.window == WindowRule::kIfUsed && !fields->Bool("use_sliding_window", false)) return 0;
  if (!fields->Has("sliding_window")) return if_absent;
  return fields->Int("sliding_window", 0);
}

// Whether layer `layer` has the window, unless `layer_types` says otherwise.
bool HasWindow(ConfigFields* fields, const ModelFamily& family, int64_t layer) {
  if (family.window == WindowRule::kIfUsed) return layer >= fields->Int("max_window_layers", 28);
  const int64_t pattern = family.window_pattern > 0 ? fields->Int("sliding_window_pattern", family.window_pattern) : 0;
  return pattern <= 0 || (layer + 1) % pattern != 0;
}

// Whether the family's own code in transformers reads `layer_types`.
bool ReadsLayerTypes(const ModelFamily& family) {
  return family.window == WindowRule::kIfUsed || family.window == WindowRule::kPattern;
}

absl::Status UnknownLayerType(const Json& type) {
  return UnsupportedModel(absl::StrCat("layer_types with ", type.dump()));
}

}  // namespace

absl::Status ReadRope(ConfigFields* fields, const ModelFamily& family, ModelConfig* config) {
  config->rope_theta = fields->Real("rope_theta", family.default_rope_theta);
  if (family.default_local_rope_theta > 0) {
    config->local_rope_theta = fields->Real("rope_local_base_freq", family.default_local_rope_theta);
  }
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* json = fields->Find(key);
    if (json == nullptr) continue;
    if (!json->is_object()) return ImpossibleModel(absl::StrCat("'", key, "' in config.json is no object"));
    ConfigFields by_type(*json);
    const Json *full = by_type.Find(kFull), *sliding = by_type.Find(kSliding);
    if (full == nullptr && sliding == nullptr) {
      ATTUNE_RETURN_IF_ERROR(ReadGlobalRope(*json, fields, family, config));
      continue;
    }
    if (family.default_local_rope_theta == 0) return UnsupportedModel(absl::StrCat(key, " by types of layers"));
    for (const Json* part : {full, sliding}) {
      if (part != nullptr && !part->is_object())
        return ImpossibleModel(absl::StrCat("a part of '", key, "' is no object"));
    }
    if (full != nullptr) ATTUNE_RETURN_IF_ERROR(ReadGlobalRope(*full, fields, family, config));
    if (sliding != nullptr) ATTUNE_RETURN_IF_ERROR(ReadLocalRope(*sliding, config));
  }
  return absl::OkStatus();
}

absl::Status ReadWindows(ConfigFields* fields, const ModelFamily& family, ModelConfig* config) {
  const int64_t window = WindowOf(fields, family);
  ATTUNE_RETURN_IF_ERROR(fields->status());
  if (window < 0) return ImpossibleModel("sliding_window is negative");
  // Layers of its two kinds turn by different angles, too, so that the pattern must be known.
  if (window == 0 && family.window == WindowRule::kPattern) {
    return UnsupportedModel(absl::StrCat("a ", family.name, " model without sliding_window"));
  }
  const Json* const types = fields->Find("layer_types");
  if (types != nullptr && (!types->is_array() || static_cast<int64_t>(types->size()) != config->layers)) {
    return ImpossibleModel("'layer_types' in config.json has not one type a layer");
  }
  ATTUNE_RETURN_IF_ERROR(CheckLayers(config->layers));
  config->windows.assign(config->layers, 0);
  for (int64_t i = 0; i < config->layers; ++i) {
    bool has_window = window > 0 && HasWindow(fields, family, i);
    if (types != nullptr) {
      const Json& type = (*types)[i];
      const bool says_window = type == kSliding;
      if (!says_window && type != kFull) return UnknownLayerType(type);
      // What a family's own code passes over must not say anything else.
      if (says_window != has_window && (!ReadsLayerTypes(family) || window == 0)) return UnknownLayerType(type);
      has_window = says_window;
    }
    config->windows[i] = has_window ? window : 0;
  }
  ATTUNE_RETURN_IF_ERROR(fields->status());
  config->DropNoWindows();
  return absl::OkStatus();
}

void AddRope(const ModelConfig& config, nlohmann::ordered_json* json) {
  (*json)["rope_theta"] = config.rope_theta;
  if (config.local_rope_theta > 0) (*json)["rope_local_base_freq"] = config.local_rope_theta;
  if (config.rope_scaling.kind != RopeScaling::Kind::kNone)
    (*json)["rope_scaling"] = ScalingToJson(config.rope_scaling);
  if (config.rope_scaling.kind != RopeScaling::Kind::kLongRope) return;
  (*json)["max_position_embeddings"] = config.rope_scaling.stretched_context;
  (*json)["original_max_position_embeddings"] = static_cast<int64_t>(config.rope_scaling.original_context);
}

void AddWindows(const ModelConfig& config, const ModelFamily& family, nlohmann::ordered_json* json) {
  if (family.window == WindowRule::kNever) return;
  const auto first = std::find_if(config.windows.begin(), config.windows.end(), [](int64_t w) { return w > 0; });
  const bool has_window = first != config.windows.end();
  (*json)["sliding_window"] = has_window ? Json(*first) : Json(nullptr);
  if (family.window == WindowRule::kIfUsed) {
    (*json)["use_sliding_window"] = has_window;
    (*json)["max_window_layers"] = first - config.windows.begin();
  }
  if (!ReadsLayerTypes(family)) return;
  for (int64_t i = 0; i < config.layers; ++i) (*json)["layer_types"].push_back(config.Window(i) > 0 ? kSliding : kFull);
}

}  // namespace attune
