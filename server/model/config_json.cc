// A configuration from a Hugging Face config.json, and back.
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/model/config.h"
#include "server/model/config_check.h"
#include "server/model/config_json_attention.h"
#include "server/model/config_json_fields.h"
#include "server/model/families.h"

namespace attune {
namespace {

using Json = nlohmann::json;

// Biases by the family's own keys; those that it has without being asked are set.
absl::Status ReadBiases(ConfigFields* fields, const ModelFamily& family, ModelConfig* config) {
  const bool attention = fields->Bool("attention_bias", false), mlp = fields->Bool("mlp_bias", false);
  if (attention && !family.takes_attention_bias) return UnsupportedModel("attention_bias");
  if (mlp && !family.takes_mlp_bias) return UnsupportedModel("mlp_bias");
  config->qkv_bias = family.qkv_bias || attention;
  config->output_bias = attention;
  config->mlp_bias = mlp;
  return absl::OkStatus();
}

// Its name in a config.json. Families with GELU have a key of their own for it: `hidden_act` of their older files is not used.
const char* ActivationKey(const ModelFamily& family) {
  return family.activation == Activation::kSilu ? "hidden_act" : "hidden_activation";
}

absl::Status CheckActivation(ConfigFields* fields, const ModelFamily& family) {
  const bool is_silu = family.activation == Activation::kSilu;
  const std::string name = fields->Text(ActivationKey(family), is_silu ? "silu" : "gelu_pytorch_tanh");
  const bool fits = is_silu ? name == "silu" || name == "swish" : name == "gelu_pytorch_tanh";
  return fits ? absl::OkStatus() : UnsupportedModel(absl::StrCat(ActivationKey(family), " '", name, "'"));
}

// What scores and logits go through.
absl::Status ReadScores(ConfigFields* fields, const ModelFamily& family, ModelConfig* config) {
  if (family.default_query_scalar > 0) {
    config->query_scalar = static_cast<double>(fields->Int("query_pre_attn_scalar", family.default_query_scalar));
  }
  if (!family.takes_softcaps) return absl::OkStatus();
  if (!family.takes_attention_softcap && fields->Find("attn_logit_softcapping") != nullptr) {
    return UnsupportedModel(absl::StrCat("attn_logit_softcapping of a ", family.name, " model"));
  }
  auto cap = [&](const char* key, double if_absent) { return fields->Has(key) ? fields->Real(key, 0) : if_absent; };
  config->attention_softcap = cap("attn_logit_softcapping", family.default_attention_softcap);
  config->logit_softcap = cap("final_logit_softcapping", family.default_logit_softcap);
  return absl::OkStatus();
}

absl::Status RefuseFeatures(ConfigFields* fields, const ModelFamily& family) {
  ATTUNE_RETURN_IF_ERROR(CheckActivation(fields, family));
  if (fields->Bool("use_bidirectional_attention", false)) return UnsupportedModel("use_bidirectional_attention");
  if (fields->Find("quantization_config") != nullptr) return UnsupportedModel("quantization_config");
  if (fields->Real("partial_rotary_factor", 1) != 1) return UnsupportedModel("partial_rotary_factor");
  return absl::OkStatus();
}

absl::Status ReadShape(ConfigFields* fields, const ModelFamily& family, ModelConfig* config) {
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
  config->tied_head = fields->Bool("tie_word_embeddings", family.default_tied_head);
  return fields->status();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromJson(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return ImpossibleModel("config.json holds no JSON object");
  ConfigFields fields(json);
  ModelConfig config;
  config.family = fields.Text("model_type", "");
  const ModelFamily* const family = FindFamily(config.family);
  if (family == nullptr) return UnsupportedModel(absl::StrCat("model_type '", config.family, "'"));
  ATTUNE_RETURN_IF_ERROR(ReadShape(&fields, *family, &config));
  ATTUNE_RETURN_IF_ERROR(ReadBiases(&fields, *family, &config));
  TakeFamilyLayers(*family, &config);
  ATTUNE_RETURN_IF_ERROR(ReadScores(&fields, *family, &config));
  ATTUNE_RETURN_IF_ERROR(ReadRope(&fields, *family, &config));
  ATTUNE_RETURN_IF_ERROR(ReadWindows(&fields, *family, &config));
  ATTUNE_RETURN_IF_ERROR(RefuseFeatures(&fields, *family));
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
                                 {ActivationKey(family), family.activation == Activation::kSilu ? "silu" : "gelu_pytorch_tanh"},
                                 {"tie_word_embeddings", config.tied_head},
                                 {"bos_token_id", id_or_null(bos_id)},
                                 {"eos_token_id", id_or_null(eos_id)},
                                 {"pad_token_id", nullptr}};
  AddRope(config, &json);
  AddWindows(config, family, &json);
  if (family.takes_attention_bias) json["attention_bias"] = config.output_bias;
  if (family.takes_mlp_bias) json["mlp_bias"] = config.mlp_bias;
  // transformers takes whole numbers alone.
  if (family.default_query_scalar > 0) json["query_pre_attn_scalar"] = static_cast<int64_t>(std::llround(config.query_scalar));
  auto cap_or_null = [](double cap) { return cap > 0 ? Json(cap) : Json(nullptr); };
  if (family.takes_softcaps) {
    json["attn_logit_softcapping"] = cap_or_null(config.attention_softcap);
    json["final_logit_softcapping"] = cap_or_null(config.logit_softcap);
  }
  return json.dump(2) + "\n";
}

}  // namespace attune
