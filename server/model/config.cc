#include "server/model/config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::json;

// Beyond these a value is an error or an attack. Products of them stay far below 2^63.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHidden = int64_t{1} << 17;
constexpr int64_t kMaxIntermediate = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxVocab = int64_t{1} << 21;
constexpr int64_t kMaxContext = int64_t{1} << 21;
constexpr double kMaxRopeTheta = 1e12;
constexpr double kMaxScalingFactor = 1e4;
constexpr double kPi = 3.14159265358979323846;

absl::Status BadModel(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL", absl::StrCat("Not a usable model: ", message));
}

absl::Status Unsupported(absl::string_view feature) {
  return MakeError(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_MODEL",
                   absl::StrCat("The model needs what is not supported: ", feature));
}

absl::Status CheckRange(absl::string_view name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return BadModel(absl::StrCat(name, " is ", value, ", which is not in ", low, " to ", high));
}

absl::Status CheckScaling(const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::kNone) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(CheckRange("the rope scaling factor", scaling.factor, 1, kMaxScalingFactor));
  if (scaling.kind == RopeScaling::Kind::kLinear) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(CheckRange("low_freq_factor", scaling.low_frequency_factor, 1e-3, kMaxScalingFactor));
  ATTUNE_RETURN_IF_ERROR(CheckRange("high_freq_factor", scaling.high_frequency_factor, 1e-3, kMaxScalingFactor));
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    return BadModel("high_freq_factor must be above low_freq_factor");
  }
  return CheckRange("original_max_position_embeddings", scaling.original_context, 1, kMaxContext);
}

absl::StatusOr<ModelConfig> Checked(ModelConfig config) {
  ATTUNE_RETURN_IF_ERROR(CheckRange("the number of layers", config.layers, 1, kMaxLayers));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the hidden size", config.hidden, 1, kMaxHidden));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the intermediate size", config.intermediate, 1, kMaxIntermediate));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the number of heads", config.heads, 1, kMaxHeads));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the number of key/value heads", config.kv_heads, 1, config.heads));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the head dimension", config.head_dim, 2, kMaxHeadDim));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the vocabulary's size", config.vocab, 1, kMaxVocab));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the context length", config.context, 1, kMaxContext));
  ATTUNE_RETURN_IF_ERROR(CheckRange("the norms' epsilon", config.rms_epsilon, 1e-20, 1));
  ATTUNE_RETURN_IF_ERROR(CheckRange("rope_theta", config.rope_theta, 1, kMaxRopeTheta));
  ATTUNE_RETURN_IF_ERROR(CheckScaling(config.rope_scaling));
  if (config.head_dim % 2 != 0) return BadModel("the head dimension is odd");
  if (config.heads % config.kv_heads != 0) {
    return BadModel("the number of heads is no multiple of the number of key/value heads");
  }
  return config;
}

// How much slower a pair of dimensions turns than without scaling, in Llama 3.1's way:
// long waves are stretched by `factor`, short ones stay, those between are blended.
double Llama3Stretch(const RopeScaling& scaling, double frequency) {
  double turns = scaling.original_context * frequency / (2 * kPi);  // within the original context
  if (turns > scaling.high_frequency_factor) return 1;
  if (turns < scaling.low_frequency_factor) return scaling.factor;
  double smooth = (turns - scaling.low_frequency_factor) /
                  (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

double UnscaledFrequency(const ModelConfig& config, int64_t pair) {
  return std::pow(config.rope_theta, -2.0 * static_cast<double>(pair) / static_cast<double>(config.head_dim));
}

// ---- GGUF ----

// GGUF files carry Llama 3's scaling as the list of its stretches alone. The list is
// taken for what it is by computing it again.
absl::Status ReadRopeFactors(const GgufTensor& tensor, ModelConfig* config) {
  if (tensor.type != GgmlType::kF32 || tensor.elements() != config->head_dim / 2 ||
      tensor.bytes.size() != static_cast<size_t>(tensor.elements()) * sizeof(float)) {
    return BadModel("rope_freqs.weight does not fit the head dimension");
  }
  std::vector<float> factors(tensor.elements());
  std::memcpy(factors.data(), tensor.bytes.data(), tensor.bytes.size());
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = *std::max_element(factors.begin(), factors.end());
  for (size_t i = 0; i < factors.size(); ++i) {
    double expected = Llama3Stretch(scaling, UnscaledFrequency(*config, i));
    if (!(std::abs(factors[i] - expected) <= 1e-3 * expected)) {
      return Unsupported("rope_freqs.weight with factors that are not Llama 3's");
    }
  }
  config->rope_scaling = scaling;
  return absl::OkStatus();
}

absl::Status ReadGgufRope(const GgufFile& file, ModelConfig* config) {
  ATTUNE_ASSIGN_OR_RETURN(config->rope_theta, file.Real("llama.rope.freq_base", 10000));
  ATTUNE_ASSIGN_OR_RETURN(int64_t rotated, file.Int("llama.rope.dimension_count", config->head_dim));
  if (rotated != config->head_dim) return Unsupported("llama.rope.dimension_count that is not the head dimension");
  ATTUNE_ASSIGN_OR_RETURN(std::string type, file.Text("llama.rope.scaling.type", "none"));
  ATTUNE_ASSIGN_OR_RETURN(double old_factor, file.Real("llama.rope.scale_linear", 1));
  ATTUNE_ASSIGN_OR_RETURN(double factor, file.Real("llama.rope.scaling.factor", old_factor));
  if (type != "none" && type != "linear") return Unsupported(absl::StrCat("llama.rope.scaling.type '", type, "'"));
  if ((type == "linear" || file.Has("llama.rope.scale_linear")) && factor != 1) {
    config->rope_scaling.kind = RopeScaling::Kind::kLinear;
    config->rope_scaling.factor = factor;
  }
  const GgufTensor* factors = file.Find("rope_freqs.weight");
  if (factors == nullptr) return absl::OkStatus();
  if (config->rope_scaling.kind != RopeScaling::Kind::kNone) {
    return Unsupported("linear scaling with rope_freqs.weight");
  }
  return ReadRopeFactors(*factors, config);
}

absl::Status RefuseGgufFeatures(const GgufFile& file, int64_t context) {
  for (const char* key :
       {"llama.attention.scale", "llama.logit_scale", "llama.residual_scale", "llama.embedding_scale"}) {
    if (file.Has(key)) return Unsupported(key);
  }
  ATTUNE_ASSIGN_OR_RETURN(int64_t experts, file.Int("llama.expert_count", 0));
  if (experts != 0) return Unsupported("mixtures of experts (llama.expert_count)");
  ATTUNE_ASSIGN_OR_RETURN(bool causal, file.Bool("llama.attention.causal", true));
  if (!causal) return Unsupported("llama.attention.causal = false");
  ATTUNE_ASSIGN_OR_RETURN(int64_t window, file.Int("llama.attention.sliding_window", 0));
  if (window > 0 && window < context) return Unsupported("llama.attention.sliding_window");
  return absl::OkStatus();
}

// ---- config.json ----

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
    if (Find(key) == nullptr && status_.ok()) status_ = BadModel(absl::StrCat("config.json has no '", key, "'"));
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
    if (status_.ok()) status_ = BadModel(absl::StrCat("'", key, "' in config.json has a wrong type"));
    return fallback;
  }
  const Json& json_;
  absl::Status status_;
};

absl::Status ReadScaling(const Json& json, RopeScaling* scaling) {
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
  } else if (type != "default" && type != "none") {
    return Unsupported(absl::StrCat("rope scaling of type '", type, "'"));
  }
  if (fields.Real("partial_rotary_factor", 1) != 1) return Unsupported("partial_rotary_factor");
  return fields.status();
}

// `rope_theta` and `rope_scaling`, or both in `rope_parameters` (transformers 5).
absl::Status ReadRope(Fields* fields, ModelConfig* config) {
  config->rope_theta = fields->Real("rope_theta", 10000);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* json = fields->Find(key);
    if (json == nullptr) continue;
    if (!json->is_object()) return BadModel(absl::StrCat("'", key, "' in config.json is no object"));
    ATTUNE_RETURN_IF_ERROR(ReadScaling(*json, &config->rope_scaling));
    Fields rope(*json);
    config->rope_theta = rope.Real("rope_theta", config->rope_theta);
    ATTUNE_RETURN_IF_ERROR(rope.status());
  }
  return absl::OkStatus();
}

absl::Status RefuseFeatures(Fields* fields, const ModelConfig& config) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (fields->Bool(key, false)) return Unsupported(key);
  }
  std::string activation = fields->Text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") return Unsupported(absl::StrCat("hidden_act '", activation, "'"));
  if (fields->Find("quantization_config") != nullptr) return Unsupported("quantization_config");
  if (fields->Real("partial_rotary_factor", 1) != 1) return Unsupported("partial_rotary_factor");
  if (config.family == "mistral") {
    // transformers takes 4096 if the key is absent; null means no window.
    bool absent = !fields->Has("sliding_window");
    int64_t window = absent ? 4096 : fields->Int("sliding_window", config.context);
    if (window < config.context) return Unsupported("sliding_window that is smaller than the context");
  }
  return absl::OkStatus();
}

}  // namespace

int64_t ModelConfig::Parameters() const {
  int64_t layer = hidden * qkv_size() + q_size() * hidden + 3 * hidden * intermediate + 2 * hidden;
  return layers * layer + hidden + vocab * hidden * (tied_head ? 1 : 2);
}

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  ATTUNE_ASSIGN_OR_RETURN(std::string architecture, file.Text("general.architecture", ""));
  if (architecture != "llama") return Unsupported(absl::StrCat("architecture '", architecture, "'"));
  ModelConfig config;
  config.family = "llama";
  ATTUNE_ASSIGN_OR_RETURN(config.layers, file.Int("llama.block_count", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.hidden, file.Int("llama.embedding_length", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.intermediate, file.Int("llama.feed_forward_length", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.heads, file.Int("llama.attention.head_count", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.kv_heads, file.Int("llama.attention.head_count_kv", config.heads));
  ATTUNE_RETURN_IF_ERROR(CheckRange("llama.attention.head_count", config.heads, 1, kMaxHeads));
  ATTUNE_ASSIGN_OR_RETURN(config.head_dim, file.Int("llama.attention.key_length", config.hidden / config.heads));
  ATTUNE_ASSIGN_OR_RETURN(int64_t value_dim, file.Int("llama.attention.value_length", config.head_dim));
  if (value_dim != config.head_dim) return Unsupported("llama.attention.value_length other than key_length");
  ATTUNE_RETURN_IF_ERROR(CheckRange("the head dimension", config.head_dim, 2, kMaxHeadDim));
  ATTUNE_ASSIGN_OR_RETURN(config.context, file.Int("llama.context_length", 0));
  ATTUNE_ASSIGN_OR_RETURN(config.rms_epsilon, file.Real("llama.attention.layer_norm_rms_epsilon", 1e-5));
  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) return BadModel("token_embd.weight is missing");
  config.vocab = embedding->shape[0];
  config.tied_head = file.Find("output.weight") == nullptr;
  ATTUNE_RETURN_IF_ERROR(RefuseGgufFeatures(file, config.context));
  ATTUNE_RETURN_IF_ERROR(ReadGgufRope(file, &config));
  return Checked(std::move(config));
}

absl::StatusOr<ModelConfig> ConfigFromJson(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return BadModel("config.json holds no JSON object");
  Fields fields(json);
  ModelConfig config;
  config.family = fields.Text("model_type", "");
  bool mistral = config.family == "mistral";
  if (config.family != "llama" && !mistral) return Unsupported(absl::StrCat("model_type '", config.family, "'"));
  config.layers = fields.Need("num_hidden_layers");
  config.hidden = fields.Need("hidden_size");
  config.intermediate = fields.Need("intermediate_size");
  config.heads = fields.Need("num_attention_heads");
  config.kv_heads = fields.Int("num_key_value_heads", mistral ? 8 : config.heads);
  ATTUNE_RETURN_IF_ERROR(fields.status());
  ATTUNE_RETURN_IF_ERROR(CheckRange("num_attention_heads", config.heads, 1, kMaxHeads));
  config.head_dim = fields.Int("head_dim", config.hidden / config.heads);
  config.vocab = fields.Need("vocab_size");
  config.context = fields.Int("max_position_embeddings", mistral ? 4096 * 32 : 2048);
  config.rms_epsilon = fields.Real("rms_norm_eps", 1e-6);
  config.tied_head = fields.Bool("tie_word_embeddings", false);
  ATTUNE_RETURN_IF_ERROR(ReadRope(&fields, &config));
  ATTUNE_RETURN_IF_ERROR(RefuseFeatures(&fields, config));
  ATTUNE_RETURN_IF_ERROR(fields.status());
  return Checked(std::move(config));
}

std::string ConfigToJson(const ModelConfig& config, int32_t bos_id, int32_t eos_id) {
  bool mistral = config.family == "mistral";
  auto id_or_null = [](int32_t id) { return id < 0 ? Json(nullptr) : Json(id); };
  nlohmann::ordered_json json = {{"architectures", {mistral ? "MistralForCausalLM" : "LlamaForCausalLM"}},
                                 {"model_type", mistral ? "mistral" : "llama"},
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
                                 {"eos_token_id", id_or_null(eos_id)}};
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", scaling.factor}};
  } else if (scaling.kind == RopeScaling::Kind::kLlama3) {
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", scaling.factor},
                            {"low_freq_factor", scaling.low_frequency_factor},
                            {"high_freq_factor", scaling.high_frequency_factor},
                            {"original_max_position_embeddings", static_cast<int64_t>(scaling.original_context)}};
  }
  if (mistral) {
    json["sliding_window"] = nullptr;
  } else {
    json["attention_bias"] = false;
    json["mlp_bias"] = false;
  }
  return json.dump(2) + "\n";
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(config.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = UnscaledFrequency(config, i);
    switch (config.rope_scaling.kind) {
      case RopeScaling::Kind::kNone: break;
      case RopeScaling::Kind::kLinear: frequency /= config.rope_scaling.factor; break;
      case RopeScaling::Kind::kLlama3: frequency /= Llama3Stretch(config.rope_scaling, frequency); break;
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace attune
