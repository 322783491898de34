// A configuration from a GGUF file's metadata.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/config.h"
#include "server/model/config_check.h"
#include "server/model/families.h"

namespace attune {
namespace {

// The metadata under an architecture's prefix: "attention.head_count" is "llama.attention.head_count".
class Metadata {
 public:
  Metadata(const GgufFile& file, absl::string_view architecture) : file_(file), architecture_(architecture) {}

  std::string Key(absl::string_view name) const { return absl::StrCat(architecture_, ".", name); }
  bool Has(absl::string_view name) const { return file_.Has(Key(name)); }
  absl::StatusOr<int64_t> Int(absl::string_view name, int64_t fallback) const { return file_.Int(Key(name), fallback); }
  absl::StatusOr<double> Real(absl::string_view name, double fallback) const { return file_.Real(Key(name), fallback); }
  absl::StatusOr<bool> Bool(absl::string_view name, bool fallback) const { return file_.Bool(Key(name), fallback); }
  absl::StatusOr<std::string> Text(absl::string_view name, const char* fallback) const {
    return file_.Text(Key(name), fallback);
  }

 private:
  const GgufFile& file_;
  const std::string architecture_;
};

// One number for each pair of a head's dimensions.
absl::StatusOr<std::vector<float>> PairFactors(const GgufTensor& tensor, int64_t head_dim) {
  if (tensor.type != GgmlType::kF32 || tensor.elements() != head_dim / 2 ||
      tensor.bytes.size() != static_cast<size_t>(tensor.elements()) * sizeof(float)) {
    return ImpossibleModel(absl::StrCat(tensor.name, " does not fit the head dimension"));
  }
  std::vector<float> factors(tensor.elements());
  std::memcpy(factors.data(), tensor.bytes.data(), tensor.bytes.size());
  return factors;
}

// Whether Llama 3's scaling, as it stands in the configuration, divides each pair's angle by these.
bool AreLlama3Factors(const std::vector<float>& factors, const ModelConfig& config) {
  ModelConfig without = config;
  without.rope_scaling = RopeScaling();
  const std::vector<double> plain = RopeFrequencies(without), scaled = RopeFrequencies(config);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double expected = plain[i] / scaled[i];
    if (!(std::abs(factors[i] - expected) <= 1e-3 * expected)) return false;
  }
  return true;
}

// GGUF files carry Llama 3's scaling as the list of its stretches alone. The list is taken for what it is by computing it again,
// with the original context of all Llama 3 models, else with other powers of two.
absl::Status ReadRopeFactors(const GgufTensor& tensor, ModelConfig* config) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<float> factors, PairFactors(tensor, config->head_dim));
  RopeScaling& scaling = config->rope_scaling;
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = *std::max_element(factors.begin(), factors.end());
  if (AreLlama3Factors(factors, *config)) return absl::OkStatus();
  for (scaling.original_context = 16; scaling.original_context <= 1 << 20; scaling.original_context *= 2) {
    if (AreLlama3Factors(factors, *config)) return absl::OkStatus();
  }
  return UnsupportedModel("rope_freqs.weight with factors that are not Llama 3's");
}

// Its attention factor multiplies the one that follows from the stretch, as in llama.cpp.
absl::Status ReadYarn(const Metadata& metadata, const ModelConfig& config, double factor, RopeScaling* scaling) {
  for (const char* key : {"rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
                          "rope.scaling.yarn_attn_factor"}) {
    if (metadata.Has(key)) return UnsupportedModel(metadata.Key(key));
  }
  scaling->kind = RopeScaling::Kind::kYarn;
  scaling->factor = factor;
  const int64_t context = config.context;
  ATTUNE_ASSIGN_OR_RETURN(const int64_t original, metadata.Int("rope.scaling.original_context_length", context));
  scaling->original_context = static_cast<double>(original);
  ATTUNE_ASSIGN_OR_RETURN(scaling->beta_fast, metadata.Real("rope.scaling.yarn_beta_fast", 32));
  ATTUNE_ASSIGN_OR_RETURN(scaling->beta_slow, metadata.Real("rope.scaling.yarn_beta_slow", 1));
  ATTUNE_ASSIGN_OR_RETURN(const double attention, metadata.Real("rope.scaling.attn_factor", 1));
  scaling->attention_factor = attention * YarnAttentionFactor(factor);
  return absl::OkStatus();
}

constexpr char kLongFactors[] = "rope_factors_long.weight", kShortFactors[] = "rope_factors_short.weight";

// LongRoPE, within the original context, as of a config.json: the file's context is the stretched one. Converters write no type.
absl::Status ReadLongRope(const GgufFile& file, const Metadata& metadata, ModelConfig* config) {
  const GgufTensor *const longs = file.Find(kLongFactors), *const shorts = file.Find(kShortFactors);
  if (longs == nullptr || shorts == nullptr) {
    return UnsupportedModel(absl::StrCat("longrope without ", longs == nullptr ? kLongFactors : kShortFactors));
  }
  ATTUNE_ASSIGN_OR_RETURN(const std::string type, metadata.Text("rope.scaling.type", "longrope"));
  ATTUNE_ASSIGN_OR_RETURN(const double old_factor, metadata.Real("rope.scale_linear", 1));
  ATTUNE_ASSIGN_OR_RETURN(const double factor, metadata.Real("rope.scaling.factor", old_factor));
  if ((type != "longrope" && type != "none") || factor != 1) return UnsupportedModel("another scaling with longrope");
  if (!metadata.Has("rope.scaling.original_context_length")) {
    return UnsupportedModel(absl::StrCat("longrope without ", metadata.Key("rope.scaling.original_context_length")));
  }
  RopeScaling& scaling = config->rope_scaling;
  scaling.kind = RopeScaling::Kind::kLongRope;
  ATTUNE_ASSIGN_OR_RETURN(const int64_t original, metadata.Int("rope.scaling.original_context_length", 0));
  ATTUNE_RETURN_IF_ERROR(CheckRange(metadata.Key("rope.scaling.original_context_length"), static_cast<double>(original), 2, 1 << 30));
  scaling.original_context = static_cast<double>(original);
  scaling.stretched_context = config->context;
  scaling.factor = std::max(static_cast<double>(config->context) / scaling.original_context, 1.0);
  ATTUNE_ASSIGN_OR_RETURN(scaling.attention_factor, metadata.Real("rope.scaling.attn_factor", 1));
  config->context = std::min(config->context, original);
  for (const auto& [tensor, factors] : {std::pair{longs, &scaling.long_factors}, {shorts, &scaling.short_factors}}) {
    ATTUNE_ASSIGN_OR_RETURN(const std::vector<float> values, PairFactors(*tensor, config->head_dim));
    factors->assign(values.begin(), values.end());
  }
  return absl::OkStatus();
}

absl::Status ReadScaling(const Metadata& metadata, const ModelConfig& config, RopeScaling* scaling) {
  // As llama.cpp: a factor without a type is linear, and a type of none means what it says.
  ATTUNE_ASSIGN_OR_RETURN(const std::string type, metadata.Text("rope.scaling.type", "linear"));
  ATTUNE_ASSIGN_OR_RETURN(const double old_factor, metadata.Real("rope.scale_linear", 1));
  ATTUNE_ASSIGN_OR_RETURN(const double factor, metadata.Real("rope.scaling.factor", old_factor));
  if (metadata.Has("rope.scaling.alpha")) return UnsupportedModel(metadata.Key("rope.scaling.alpha"));
  if (type == "yarn") return ReadYarn(metadata, config, factor, scaling);
  if (type != "none" && type != "linear") {
    return UnsupportedModel(absl::StrCat(metadata.Key("rope.scaling.type"), " '", type, "'"));
  }
  ATTUNE_ASSIGN_OR_RETURN(const double attention_factor, metadata.Real("rope.scaling.attn_factor", 1));
  if (attention_factor != 1) return UnsupportedModel(absl::StrCat(metadata.Key("rope.scaling.attn_factor"), " without YaRN"));
  if (type == "linear" && factor != 1) {
    scaling->kind = RopeScaling::Kind::kLinear;
    scaling->factor = factor;
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufFile& file, const Metadata& metadata, const ModelFamily& family, ModelConfig* config) {
  ATTUNE_ASSIGN_OR_RETURN(config->rope_theta, metadata.Real("rope.freq_base", 10000));
  ATTUNE_ASSIGN_OR_RETURN(const int64_t rotated, metadata.Int("rope.dimension_count", config->head_dim));
  if (rotated != config->head_dim) {
    return UnsupportedModel(absl::StrCat(metadata.Key("rope.dimension_count"), " that is not the head dimension"));
  }
  if (file.Find(kLongFactors) != nullptr || file.Find(kShortFactors) != nullptr) {
    if (!family.takes_long_rope) return UnsupportedModel(absl::StrCat("longrope of a ", family.name, " model"));
    ATTUNE_RETURN_IF_ERROR(ReadLongRope(file, metadata, config));
  } else {
    ATTUNE_RETURN_IF_ERROR(ReadScaling(metadata, *config, &config->rope_scaling));
  }
  const GgufTensor* factors = file.Find("rope_freqs.weight");
  if (factors == nullptr) return absl::OkStatus();
  if (config->rope_scaling.kind != RopeScaling::Kind::kNone) {
    return UnsupportedModel("another scaling with rope_freqs.weight");
  }
  return ReadRopeFactors(*factors, config);
}

absl::Status RefuseFeatures(const Metadata& metadata) {
  for (const char* key : {"attention.scale", "logit_scale", "residual_scale", "embedding_scale"}) {
    if (metadata.Has(key)) return UnsupportedModel(metadata.Key(key));
  }
  ATTUNE_ASSIGN_OR_RETURN(const int64_t experts, metadata.Int("expert_count", 0));
  if (experts != 0) return UnsupportedModel(absl::StrCat("mixtures of experts (", metadata.Key("expert_count"), ")"));
  ATTUNE_ASSIGN_OR_RETURN(const bool causal, metadata.Bool("attention.causal", true));
  if (!causal) return UnsupportedModel(absl::StrCat(metadata.Key("attention.causal"), " = false"));
  return absl::OkStatus();
}

// Which layers have the window, and by what angles these turn.
absl::Status ReadWindows(const Metadata& metadata, const ModelFamily& family, ModelConfig* config) {
  // Files that are older than the key have a window all the same.
  if (family.gguf_needs_window && !metadata.Has("attention.sliding_window")) {
    return UnsupportedModel(absl::StrCat("a ", family.name, " file without ", metadata.Key("attention.sliding_window"),
                                         ", which says whether attention has a window; convert it anew"));
  }
  ATTUNE_ASSIGN_OR_RETURN(const int64_t window, metadata.Int("attention.sliding_window", 0));
  // Of other families it is not known which layers it is for.
  const bool takes_window = family.window == WindowRule::kUnlessAbsent || family.window == WindowRule::kPattern;
  if (!takes_window && window > 0 && window < config->context) {
    return UnsupportedModel(metadata.Key("attention.sliding_window"));
  }
  if (!takes_window || (window <= 0 && family.window != WindowRule::kPattern)) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(CheckRange(metadata.Key("attention.sliding_window"), static_cast<double>(window), 1, 1 << 30));
  int64_t pattern = family.window_pattern;
  if (pattern > 0) {
    ATTUNE_ASSIGN_OR_RETURN(pattern, metadata.Int("attention.sliding_window_pattern", pattern));
    ATTUNE_RETURN_IF_ERROR(CheckRange(metadata.Key("attention.sliding_window_pattern"), static_cast<double>(pattern), 1, 1 << 20));
  }
  ATTUNE_RETURN_IF_ERROR(CheckLayers(config->layers));
  for (int64_t i = 0; i < config->layers; ++i) {
    config->windows.push_back(pattern > 0 && (i + 1) % pattern == 0 ? 0 : window);
  }
  config->DropNoWindows();
  if (family.default_local_rope_theta == 0) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(config->local_rope_theta, metadata.Real("rope.freq_base_swa", family.default_local_rope_theta));
  return absl::OkStatus();
}

// What scores and logits go through.
absl::Status ReadScores(const Metadata& metadata, const ModelFamily& family, ModelConfig* config) {
  if (family.default_query_scalar > 0) {
    // As llama.cpp: files say which model of the family it is by its layers alone.
    const bool is_wide = config->layers == family.gguf_wide_queries_layers;
    config->query_scalar = static_cast<double>(is_wide ? config->hidden / config->heads : config->head_dim);
  }
  if (!family.takes_attention_softcap && metadata.Has("attn_logit_softcapping")) {
    return UnsupportedModel(metadata.Key("attn_logit_softcapping"));
  }
  if (!family.takes_softcaps && metadata.Has("final_logit_softcapping")) {
    return UnsupportedModel(metadata.Key("final_logit_softcapping"));
  }
  ATTUNE_ASSIGN_OR_RETURN(config->attention_softcap,
                          metadata.Real("attn_logit_softcapping", family.default_attention_softcap));
  ATTUNE_ASSIGN_OR_RETURN(config->logit_softcap, metadata.Real("final_logit_softcapping", family.default_logit_softcap));
  return absl::OkStatus();
}

absl::Status ReadHeads(const Metadata& metadata, ModelConfig* config) {
  ATTUNE_ASSIGN_OR_RETURN(config->heads, metadata.Int("attention.head_count", 0));
  ATTUNE_ASSIGN_OR_RETURN(config->kv_heads, metadata.Int("attention.head_count_kv", config->heads));
  ATTUNE_RETURN_IF_ERROR(CheckHeads(metadata.Key("attention.head_count"), config->heads));
  ATTUNE_ASSIGN_OR_RETURN(config->head_dim, metadata.Int("attention.key_length", config->hidden / config->heads));
  ATTUNE_ASSIGN_OR_RETURN(const int64_t value_dim, metadata.Int("attention.value_length", config->head_dim));
  if (value_dim != config->head_dim) {
    return UnsupportedModel(absl::StrCat(metadata.Key("attention.value_length"), " other than key_length"));
  }
  return CheckHeadDim(config->head_dim);
}

// GGUF's metadata say nothing of biases: they are where the tensors are. Those that the first layer has every
// layer must have, as loading finds out.
absl::Status ReadBiases(const GgufFile& file, const ModelFamily& family, ModelConfig* config) {
  auto has = [&](const char* name) { return file.Find(absl::StrCat("blk.0.", name, ".bias")) != nullptr; };
  config->output_bias = has("attn_output");
  config->qkv_bias = family.qkv_bias || has("attn_q");
  config->mlp_bias = has("ffn_down");
  if (config->output_bias && !family.takes_attention_bias) return UnsupportedModel("blk.0.attn_output.bias");
  if (config->mlp_bias && !family.takes_mlp_bias) return UnsupportedModel("blk.0.ffn_down.bias");
  // No config.json could say so, and tuned models get one.
  if (!family.qkv_bias && config->qkv_bias != config->output_bias) {
    return UnsupportedModel("biases of some of attention's projections (blk.0.attn_q.bias, blk.0.attn_output.bias)");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  ATTUNE_ASSIGN_OR_RETURN(const std::string architecture, file.Text("general.architecture", ""));
  const ModelFamily* const family = FindGgufFamily(architecture);
  if (family == nullptr) return UnsupportedModel(absl::StrCat("architecture '", architecture, "'"));
  const Metadata metadata(file, architecture);
  ModelConfig config;
  config.family = std::string(family->name);
  ATTUNE_ASSIGN_OR_RETURN(config.layers, metadata.Int("block_count", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.hidden, metadata.Int("embedding_length", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.intermediate, metadata.Int("feed_forward_length", 0));
  ATTUNE_RETURN_IF_ERROR(ReadHeads(metadata, &config));
  ATTUNE_ASSIGN_OR_RETURN(config.context, metadata.Int("context_length", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.rms_epsilon, metadata.Real("attention.layer_norm_rms_epsilon", 1e-5));
  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) return ImpossibleModel("token_embd.weight is missing");
  config.vocab = embedding->shape[0];
  config.tied_head = file.Find("output.weight") == nullptr;
  TakeFamilyLayers(*family, &config);
  ATTUNE_RETURN_IF_ERROR(ReadBiases(file, *family, &config));
  ATTUNE_RETURN_IF_ERROR(RefuseFeatures(metadata));
  ATTUNE_RETURN_IF_ERROR(ReadWindows(metadata, *family, &config));
  ATTUNE_RETURN_IF_ERROR(ReadScores(metadata, *family, &config));
  ATTUNE_RETURN_IF_ERROR(ReadRope(file, metadata, *family, &config));
  const RopeScaling::Kind scaling = config.rope_scaling.kind;
  if (!family->scales_rope && scaling != RopeScaling::Kind::kNone && scaling != RopeScaling::Kind::kLongRope) {
    return UnsupportedModel(absl::StrCat("rope scaling of a ", architecture, " model"));
  }
  return Checked(std::move(config));
}

}  // namespace attune
