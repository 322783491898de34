#include "server/adapters/gguf_keys.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/families.h"
#include "server/model/weights/gguf_writer.h"

namespace attune {
namespace {

absl::Status CannotExport(absl::string_view what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "EXPORT_UNSUPPORTED",
                   absl::StrCat("A GGUF file cannot say of this model: ", what, ". Export it as safetensors."));
}

// Keys under the architecture's prefix.
class Keys {
 public:
  explicit Keys(absl::string_view architecture) : architecture_(architecture) {
    keys_.push_back(EncodeGgufText("general.architecture", architecture));
  }
  void Int(absl::string_view name, int64_t value) { keys_.push_back(EncodeGgufKey(Name(name), static_cast<uint32_t>(value))); }
  void Real(absl::string_view name, double value) { keys_.push_back(EncodeGgufReal(Name(name), value)); }
  void Text(absl::string_view name, absl::string_view value) { keys_.push_back(EncodeGgufText(Name(name), value)); }
  std::vector<std::string> Take() { return std::move(keys_); }

 private:
  std::string Name(absl::string_view name) const { return absl::StrCat(architecture_, ".", name); }

  const std::string architecture_;
  std::vector<std::string> keys_;
};

void AddScaling(const RopeScaling& scaling, Keys* keys) {
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    keys->Text("rope.scaling.type", "linear");
    keys->Real("rope.scaling.factor", scaling.factor);
  }
  if (scaling.kind == RopeScaling::Kind::kLongRope) {  // its factors are tensors, which say that it is this
    keys->Int("rope.scaling.original_context_length", std::llround(scaling.original_context));
    keys->Real("rope.scaling.attn_factor", scaling.attention_factor);
  }
  if (scaling.kind != RopeScaling::Kind::kYarn) return;
  keys->Text("rope.scaling.type", "yarn");
  keys->Real("rope.scaling.factor", scaling.factor);
  keys->Int("rope.scaling.original_context_length", std::llround(scaling.original_context));
  keys->Real("rope.scaling.yarn_beta_fast", scaling.beta_fast);
  keys->Real("rope.scaling.yarn_beta_slow", scaling.beta_slow);
  // Readers multiply it by the one that follows from the factor.
  const double more = scaling.attention_factor / YarnAttentionFactor(scaling.factor);
  if (std::abs(more - 1) > 1e-6) keys->Real("rope.scaling.attn_factor", more);
}

// All layers but each n-th have the window; whether these do is for CheckSameModel to find out.
void AddWindows(const ModelConfig& config, const ModelFamily& family, Keys* keys) {
  const auto widest = std::max_element(config.windows.begin(), config.windows.end());
  const bool none = widest == config.windows.end();
  if (none && !family.gguf_needs_window) return;
  if (family.window != WindowRule::kPattern) return keys->Int("attention.sliding_window", none ? 0 : *widest);
  const auto open = std::find(config.windows.begin(), config.windows.end(), 0);
  // Of no layer: a pattern of one. Of all: one that no layer reaches.
  const int64_t pattern = none ? 1 : open - config.windows.begin() + 1;
  keys->Int("attention.sliding_window", none ? config.context : *widest);
  keys->Int("attention.sliding_window_pattern", pattern);
  if (config.local_rope_theta > 0) keys->Real("rope.freq_base_swa", config.local_rope_theta);
}

bool Same(double a, double b) { return std::abs(a - b) <= 1e-6 * std::max(std::abs(a), std::abs(b)); }

// Factors of Llama 3 are told from a list of fp32 numbers.
bool SameScaling(const ModelConfig& a, const ModelConfig& b) {
  const std::vector<double> left = RopeFrequencies(a), right = RopeFrequencies(b);
  for (size_t i = 0; i < left.size(); ++i) {
    if (std::abs(left[i] - right[i]) > 1e-5 * left[i]) return false;
  }
  const std::vector<double>&longs = a.rope_scaling.long_factors, &longs_read = b.rope_scaling.long_factors;
  return left.size() == right.size() && a.rope_scaling.kind == b.rope_scaling.kind &&
         a.rope_scaling.stretched_context == b.rope_scaling.stretched_context &&
         std::equal(longs.begin(), longs.end(), longs_read.begin(), longs_read.end(), Same) &&
         Same(a.rope_scaling.attention_factor, b.rope_scaling.attention_factor);
}

}  // namespace

absl::StatusOr<ModelConfig> GgufConfig(ModelConfig config) {
  if (config.family == "mistral") config.family = "llama";
  const ModelFamily* const family = FindFamily(config.family);
  if (family == nullptr || family->gguf_architecture.empty()) return CannotExport(absl::StrCat("the family ", config.family));
  return config;
}

std::vector<std::string> GgufShapeKeys(const ModelConfig& config) {
  const ModelFamily& family = *FindFamily(config.family);
  Keys keys(family.gguf_architecture);
  keys.Int("vocab_size", config.vocab);
  keys.Int("block_count", config.layers);
  const bool is_held = config.rope_scaling.kind == RopeScaling::Kind::kLongRope;
  keys.Int("context_length", is_held ? config.rope_scaling.stretched_context : config.context);
  keys.Int("embedding_length", config.hidden);
  keys.Int("feed_forward_length", config.intermediate);
  keys.Int("attention.head_count", config.heads);
  keys.Int("attention.head_count_kv", config.kv_heads);
  keys.Int("attention.key_length", config.head_dim);
  keys.Int("attention.value_length", config.head_dim);
  keys.Real("attention.layer_norm_rms_epsilon", config.rms_epsilon);
  keys.Int("rope.dimension_count", config.head_dim);
  keys.Real("rope.freq_base", config.rope_theta);
  AddScaling(config.rope_scaling, &keys);
  AddWindows(config, family, &keys);
  // A cap of none is said, too, since readers have a default for some.
  if (family.takes_attention_softcap) keys.Real("attn_logit_softcapping", config.attention_softcap);
  if (family.default_logit_softcap > 0 || config.logit_softcap > 0) keys.Real("final_logit_softcapping", config.logit_softcap);
  return keys.Take();
}

std::vector<std::pair<std::string, std::vector<float>>> GgufRopeFactors(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLongRope) {
    const auto floats = [](const std::vector<double>& values) { return std::vector<float>(values.begin(), values.end()); };
    return {{"rope_factors_long.weight", floats(scaling.long_factors)}, {"rope_factors_short.weight", floats(scaling.short_factors)}};
  }
  if (scaling.kind != RopeScaling::Kind::kLlama3) return {};
  ModelConfig without = config;
  without.rope_scaling = RopeScaling();
  const std::vector<double> plain = RopeFrequencies(without), scaled = RopeFrequencies(config);
  std::vector<float> factors;
  for (size_t i = 0; i < plain.size(); ++i) factors.push_back(static_cast<float>(plain[i] / scaled[i]));
  return {{"rope_freqs.weight", factors}};
}

absl::Status CheckSameModel(const ModelConfig& written, const ModelConfig& read) {
  const ModelConfig &a = written, &b = read;
  const std::pair<const char*, bool> fields[] = {
      {"the family", a.family == b.family},
      {"the shape", a.layers == b.layers && a.hidden == b.hidden && a.intermediate == b.intermediate && a.heads == b.heads &&
                        a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.vocab == b.vocab && a.context == b.context},
      {"the norms' epsilon", Same(a.rms_epsilon, b.rms_epsilon)},
      {"a head of its own", a.tied_head == b.tied_head},
      {"which projections have biases",
       a.qkv_bias == b.qkv_bias && a.output_bias == b.output_bias && a.mlp_bias == b.mlp_bias},
      {"which norms there are", a.qk_norm == b.qk_norm && a.post_norms == b.post_norms},
      {"the activation", a.activation == b.activation && a.scales_embeddings == b.scales_embeddings},
      {"which layers have a window", a.windows == b.windows},
      {"the rotary base", Same(a.rope_theta, b.rope_theta)},
      {"the rotary base of layers with a window", a.windows.empty() || Same(a.local_rope_theta, b.local_rope_theta)},
      {"the scaling of rotary angles", SameScaling(a, b)},
      {"query_pre_attn_scalar", Same(a.query_scalar, b.query_scalar)},
      {"the caps of scores and logits",
       Same(a.attention_softcap, b.attention_softcap) && Same(a.logit_softcap, b.logit_softcap)},
  };
  for (const auto& [name, same] : fields) {
    if (!same) return CannotExport(name);
  }
  return absl::OkStatus();
}

}  // namespace attune
