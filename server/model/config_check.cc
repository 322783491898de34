#include "server/model/config_check.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

// Products of these stay far below 2^63.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHidden = int64_t{1} << 17;
constexpr int64_t kMaxIntermediate = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxVocab = int64_t{1} << 21;
constexpr int64_t kMaxContext = int64_t{1} << 21;
constexpr double kMaxRopeTheta = 1e12;
constexpr double kMaxScalingFactor = 1e4;
constexpr double kMaxScore = 1e6;

absl::Status CheckYarn(const RopeScaling& scaling, double theta) {
  ATTUNE_RETURN_IF_ERROR(CheckRange("beta_fast", scaling.beta_fast, 1e-3, kMaxScalingFactor));
  ATTUNE_RETURN_IF_ERROR(CheckRange("beta_slow", scaling.beta_slow, 1e-3, kMaxScalingFactor));
  ATTUNE_RETURN_IF_ERROR(CheckRange("attention_factor", scaling.attention_factor, 1e-3, kMaxScalingFactor));
  ATTUNE_RETURN_IF_ERROR(CheckRange("rope_theta beside YaRN", theta, 1.001, kMaxRopeTheta));
  if (scaling.beta_fast <= scaling.beta_slow) return ImpossibleModel("beta_fast must be above beta_slow");
  return CheckRange("original_max_position_embeddings", scaling.original_context, 1, kMaxContext);
}

absl::Status CheckScores(const ModelConfig& config) {
  if (config.query_scalar != 0) ATTUNE_RETURN_IF_ERROR(CheckRange("query_pre_attn_scalar", config.query_scalar, 1e-3, kMaxScore));
  for (const double cap : {config.attention_softcap, config.logit_softcap}) {
    if (cap != 0) ATTUNE_RETURN_IF_ERROR(CheckRange("a soft cap", cap, 1e-3, kMaxScore));
  }
  if (config.local_rope_theta == 0) return absl::OkStatus();
  return CheckRange("the local layers' rope_theta", config.local_rope_theta, 1, kMaxRopeTheta);
}

absl::Status CheckLongRope(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  for (const std::vector<double>* factors : {&scaling.short_factors, &scaling.long_factors}) {
    if (static_cast<int64_t>(factors->size()) != config.head_dim / 2) {
      return ImpossibleModel("short_factor or long_factor has not one number for each pair of a head's dimensions");
    }
    for (const double factor : *factors) ATTUNE_RETURN_IF_ERROR(CheckRange("a LongRoPE factor", factor, 1e-3, kMaxScalingFactor));
  }
  ATTUNE_RETURN_IF_ERROR(CheckRange("attention_factor", scaling.attention_factor, 1e-3, kMaxScalingFactor));
  ATTUNE_RETURN_IF_ERROR(CheckRange("max_position_embeddings", static_cast<double>(scaling.stretched_context), 1, kMaxContext));
  return CheckRange("original_max_position_embeddings", scaling.original_context, 1, kMaxContext);
}

absl::Status CheckScaling(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kNone) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(CheckRange("the rope scaling factor", scaling.factor, 1, kMaxScalingFactor));
  if (scaling.kind == RopeScaling::Kind::kLinear) return absl::OkStatus();
  if (scaling.kind == RopeScaling::Kind::kLongRope) return CheckLongRope(config);
  if (scaling.kind == RopeScaling::Kind::kYarn) return CheckYarn(scaling, config.rope_theta);
  ATTUNE_RETURN_IF_ERROR(CheckRange("low_freq_factor", scaling.low_frequency_factor, 1e-3, kMaxScalingFactor));
  ATTUNE_RETURN_IF_ERROR(CheckRange("high_freq_factor", scaling.high_frequency_factor, 1e-3, kMaxScalingFactor));
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    return ImpossibleModel("high_freq_factor must be above low_freq_factor");
  }
  return CheckRange("original_max_position_embeddings", scaling.original_context, 1, kMaxContext);
}

}  // namespace

absl::Status ImpossibleModel(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL", absl::StrCat("Not a usable model: ", message));
}

absl::Status UnsupportedModel(absl::string_view feature) {
  return MakeError(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_MODEL",
                   absl::StrCat("The model needs what is not supported: ", feature));
}

absl::Status CheckRange(absl::string_view name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return ImpossibleModel(absl::StrCat(name, " is ", value, ", which is not in ", low, " to ", high));
}

absl::Status CheckHeads(absl::string_view name, int64_t heads) { return CheckRange(name, heads, 1, kMaxHeads); }

absl::Status CheckLayers(int64_t layers) { return CheckRange("the number of layers", layers, 1, kMaxLayers); }

absl::Status CheckHeadDim(int64_t head_dim) { return CheckRange("the head dimension", head_dim, 2, kMaxHeadDim); }

void TakeFamilyLayers(const ModelFamily& family, ModelConfig* config) {
  config->qk_norm = family.qk_norm;
  config->post_norms = family.post_norms;
  config->norm_offset = family.norm_offset;
  config->scales_embeddings = family.scales_embeddings;
  config->activation = family.activation;
}

absl::StatusOr<ModelConfig> Checked(ModelConfig config) {
  ATTUNE_RETURN_IF_ERROR(CheckLayers(config.layers));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the hidden size", config.hidden, 1, kMaxHidden));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the intermediate size", config.intermediate, 1, kMaxIntermediate));
  ATTUNE_RETURN_IF_ERROR(CheckHeads("the number of heads", config.heads));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the number of key/value heads", config.kv_heads, 1, config.heads));
  ATTUNE_RETURN_IF_ERROR(CheckHeadDim(config.head_dim));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the vocabulary's size", config.vocab, 1, kMaxVocab));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the context length", config.context, 1, kMaxContext));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the norms' epsilon", config.rms_epsilon, 1e-20, 1));
  ATTUNE_RETURN_IF_ERROR(CheckRange("rope_theta", config.rope_theta, 1, kMaxRopeTheta));
  ATTUNE_RETURN_IF_ERROR(CheckScaling(config));
  ATTUNE_RETURN_IF_ERROR(CheckScores(config));
  if (config.head_dim % 2 != 0) return ImpossibleModel("the head dimension is odd");
  if (config.heads % config.kv_heads != 0) {
    return ImpossibleModel("the number of heads is no multiple of the number of key/value heads");
  }
  return config;
}

}  // namespace attune
