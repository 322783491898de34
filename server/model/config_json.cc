// A configuration from a Hugging Face config.json, and back.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/model/config.h"
#include "server/model/config_check.h"
#include "server/model/families.h"

namespace attune {
namespace {

using Json = nlohmann::json;

// Members of a JSON object by name; null counts as absent. The first wrong type is kept in `status`.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}

  bool Has(const char* key) const { return json_.contains(key); }
  const Json* Find(const char* key) const {
    auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  int64_t Int(const char* key, int64_t fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    // Big unsigned numbers would wrap.
    if (value->is_number_unsigned() && value->get<uint64_t>() > (uint64_t{1} << 62)) return Wrong(key, fallback);
    return value->is_number_integer() ? value->get<int64_t>() : Wrong(key, fallback);
  }
  int64_t Need(const char* key) {
    if (Find(key) == nullptr && status_.ok()) status_ = ImpossibleModel(absl::StrCat("config.json has no '", key, "'"));
    return Int(key, 0);
  }
  double Real(const char* key, double fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    return value->is_number() ? value->get<double>() : Wrong(key, fallback);
  }
  bool Bool(const char* key, bool fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    return value->is_boolean() ? value->get<bool>() : Wrong(key, fallback);
  }
  std::string Text(const char* key, const char* fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    return value->is_string() ? value->get<std::string>() : Wrong(key, std::string(fallback));
  }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Wrong(const char* key, T fallback) {
    if (status_.ok()) status_ = ImpossibleModel(absl::StrCat("'", key, "' in config.json has a wrong type"));
    return fallback;
  }
  const Json& json_;
  absl::Status status_;
};

// As transformers reads it. `context` is the model's: for files that leave the original one out.
void ReadYarn(Fields* fields, int64_t context, RopeScaling* scaling) {
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

absl::Status ReadScaling(const Json& json, int64_t context, RopeScaling* scaling) {
  Fields fields(json);
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

// `rope_theta` and `rope_scaling`, or both in `rope_parameters` (transformers 5).
absl::Status ReadRope(Fields* fields, const ModelFamily& family, ModelConfig* config) {
  config->rope_theta = fields->Real("rope_theta", 10000);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* json = fields->Find(key);
    if (json == nullptr) continue;
    if (!json->is_object()) return ImpossibleModel(absl::StrCat("'", key, "' in config.json is no object"));
    // Where both are, transformers prefers the configuration's own.
    Json scaling = *json;
    const Json* const original = fields->Find("original_max_position_embeddings");
    if (original != nullptr) scaling["original_max_position_embeddings"] = *original;
    ATTUNE_RETURN_IF_ERROR(ReadScaling(scaling, config->context, &config->rope_scaling));
    if (!family.scales_rope && config->rope_scaling.kind != RopeScaling::Kind::kNone) {
      return UnsupportedModel(absl::StrCat("rope scaling of a ", family.name, " model"));
    }
    Fields rope(*json);
    config->rope_theta = rope.Real("rope_theta", config->rope_theta);
    ATTUNE_RETURN_IF_ERROR(rope.status());
  }
  return absl::OkStatus();
}

// Keys that say that tokens see a window of the last ones alone.
absl::Status RefuseWindow(Fields* fields, const ModelFamily& family, const ModelConfig& config) {
  bool is_used = family.window != WindowRule::kNever;
  if (family.window == WindowRule::kIfUsed) {
    is_used = fields->Bool("use_sliding_window", false) && fields->Int("max_window_layers", 28) < config.layers;
  }
  if (family.window == WindowRule::kUnlessAbsent) is_used = fields->Has("sliding_window");
  const int64_t window = fields->Has("sliding_window") ? fields->Int("sliding_window", config.context) : 4096;
  if (is_used && window < config.context) return UnsupportedModel("sliding_window that is smaller than the context");
  const Json* const types = fields->Find("layer_types");
  if (types == nullptr || (is_used && types->is_array())) return absl::OkStatus();
  for (const Json& type : *types) {
    if (type != "full_attention") return UnsupportedModel(absl::StrCat("layer_types with ", type.dump()));
  }
  return absl::OkStatus();
}

// Biases by the family's own keys; those that it has without being asked are set.
absl::Status ReadBiases(Fields* fields, const ModelFamily& family, ModelConfig* config) {
  const bool attention = fields->Bool("attention_bias", false), mlp = fields->Bool("mlp_bias", false);
  if (attention && !family.takes_attention_bias) return UnsupportedModel("attention_bias");
  if (mlp && !family.takes_mlp_bias) return UnsupportedModel("mlp_bias");
  config->qkv_bias = family.qkv_bias || attention;
  config->output_bias = attention;
  config->mlp_bias = mlp;
  return absl::OkStatus();
}

absl::Status RefuseFeatures(Fields* fields, const ModelFamily& family, const ModelConfig& config) {
  const std::string activation = fields->Text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    return UnsupportedModel(absl::StrCat("hidden_act '", activation, "'"));
  }
  if (fields->Find("quantization_config") != nullptr) return UnsupportedModel("quantization_config");
  if (fields->Real("partial_rotary_factor", 1) != 1) return UnsupportedModel("partial_rotary_factor");
  return RefuseWindow(fields, family, config);
}

absl::Status ReadShape(Fields* fields, const ModelFamily& family, ModelConfig* config) {
  config->layers = fields->Need("num_hidden_layers");
  config->hidden = fields->Need("hidden_size");
  config->intermediate = fields->Need("intermediate_size");
  config->heads = fields->Need("num_attention_heads");
  const bool has_default = !fields->Has("num_key_value_heads") && family.default_kv_heads > 0;
  config->kv_heads = has_default ? family.default_kv_heads : fields->Int("num_key_value_heads", config->heads);
  ATTUNE_RETURN_IF_ERROR(fields->status());
  ATTUNE_RETURN_IF_ERROR(CheckHeads("num_attention_heads", config->heads));
  const bool has_head_dim = !fields->Has("head_dim") && family.default_head_dim > 0;
  config->head_dim = has_head_dim ? family.default_head_dim : fields->Int("head_dim", config->hidden / config->heads);
  config->vocab = fields->Need("vocab_size");
  config->context = fields->Int("max_position_embeddings", family.default_context);
  config->rms_epsilon = fields->Real("rms_norm_eps", family.default_epsilon);
  config->tied_head = fields->Bool("tie_word_embeddings", false);
  return fields->status();
}

Json ScalingToJson(const RopeScaling& scaling) {
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

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromJson(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return ImpossibleModel("config.json holds no JSON object");
  Fields fields(json);
  ModelConfig config;
  config.family = fields.Text("model_type", "");
  const ModelFamily* const family = FindFamily(config.family);
  if (family == nullptr) return UnsupportedModel(absl::StrCat("model_type '", config.family, "'"));
  ATTUNE_RETURN_IF_ERROR(ReadShape(&fields, *family, &config));
  ATTUNE_RETURN_IF_ERROR(ReadBiases(&fields, *family, &config));
  config.qk_norm = family->qk_norm;
  ATTUNE_RETURN_IF_ERROR(ReadRope(&fields, *family, &config));
  ATTUNE_RETURN_IF_ERROR(RefuseFeatures(&fields, *family, config));
  ATTUNE_RETURN_IF_ERROR(fields.status());
  return Checked(std::move(config));
}

std::string ConfigToJson(const ModelConfig& config, int32_t bos_id, int32_t eos_id) {
  const ModelFamily& family = *FindFamily(config.family);
  auto id_or_null = [](int32_t id) { return id < 0 ? Json(nullptr) : Json(id); };
  nlohmann::ordered_json json = {{"architectures", {std::string(family.architecture)}},
                                 {"model_type", config.family},
                                 {"num_hidden_layers", config.layers},
                                 {"hidden_size", config.hidden},
                                 {"intermediate_size", config.intermediate},
                                 {"num_attention_heads", config.heads},
                                 {"num_key_value_heads", config.kv_heads},
                                 {"head_dim", config.head_dim},
                                 {"vocab_size", config.vocab},
                                 {"max_position_embeddings", config.context},
                                 {"rms_norm_eps", config.rms_epsilon},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", config.tied_head},
                                 {"rope_theta", config.rope_theta},
                                 {"bos_token_id", id_or_null(bos_id)},
                                 {"eos_token_id", id_or_null(eos_id)},
                                 {"pad_token_id", nullptr}};
  if (config.rope_scaling.kind != RopeScaling::Kind::kNone) json["rope_scaling"] = ScalingToJson(config.rope_scaling);
  if (family.takes_attention_bias) json["attention_bias"] = config.output_bias;
  if (family.takes_mlp_bias) json["mlp_bias"] = config.mlp_bias;
  if (family.window != WindowRule::kNever) json["sliding_window"] = nullptr;
  if (family.window == WindowRule::kIfUsed) json["use_sliding_window"] = false;
  return json.dump(2) + "\n";
}

}  // namespace attune
