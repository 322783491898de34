#include "server/adapters/formats/peft_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

// Keeps the order of patterns, which decides.
using Json = nlohmann::ordered_json;

constexpr int64_t kMaxRank = 1 << 16;
constexpr int64_t kMaxVirtualTokens = 1 << 16;

// Keys that are read elsewhere here, or that change nothing once the adapter is trained.
const std::set<std::string>& KnownKeys(PeftConfig::Type type) {
  static const auto* const common =
      new std::set<std::string>{"peft_type",    "task_type",   "base_model_name_or_path", "revision", "inference_mode",
                                "peft_version", "auto_mapping"};
  static const auto* const lora = [] {
    auto* keys = new std::set<std::string>{
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "exclude_modules", "layers_to_transform",
        "layers_pattern", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights",
        // Of starts and of other layouts that are refused, or void without them.
        "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config", "megatron_core",
        "runtime_config", "qalora_group_size", "ensure_weight_tying", "modules_to_save"};
    keys->insert(common->begin(), common->end());
    return keys;
  }();
  static const auto* const prompt = [] {
    auto* keys = new std::set<std::string>{
        "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
        // P-tuning's encoder made the embeddings; it is not needed any more.
        "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"};
    keys->insert(common->begin(), common->end());
    return keys;
  }();
  static const auto* const prefix = [] {
    auto* keys = new std::set<std::string>{
        "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
        // The network that made the keys and values; it is not needed any more.
        "encoder_hidden_size", "prefix_projection", "prefix_tuning_init_text"};
    keys->insert(common->begin(), common->end());
    return keys;
  }();
  static const auto* const ia3 = [] {
    auto* keys = new std::set<std::string>{"target_modules", "exclude_modules", "feedforward_modules",
                                           "init_ia3_weights"};
    keys->insert(common->begin(), common->end());
    return keys;
  }();
  switch (type) {
    case PeftConfig::Type::kLora: return *lora;
    case PeftConfig::Type::kSoftPrompt: return *prompt;
    case PeftConfig::Type::kPrefix: return *prefix;
    case PeftConfig::Type::kIa3: return *ia3;
  }
  return *common;
}

bool IsVoid(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_number() && value.get<double>() == 0) ||
         ((value.is_string() || value.is_array() || value.is_object()) && value.empty()) || value == Json("");
}

const Json* Find(const Json& json, const char* key) {
  auto it = json.find(key);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

absl::Status WrongType(const std::string& key) {
  return BadAdapter(absl::StrCat("'", key, "' in adapter_config.json has a wrong type"));
}

absl::Status ReadReal(const Json& json, const char* key, double low, double high, double* out) {
  const Json* value = Find(json, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return WrongType(key);
  *out = value->get<double>();
  if (*out >= low && *out <= high) return absl::OkStatus();
  return BadAdapter(absl::StrCat("'", key, "' is ", *out, ", which is not in ", low, " to ", high));
}

absl::Status ReadInt(const Json& json, const char* key, int64_t low, int64_t high, int64_t* out) {
  double value = static_cast<double>(*out);
  ATTUNE_RETURN_IF_ERROR(ReadReal(json, key, static_cast<double>(low), static_cast<double>(high), &value));
  if (value != std::floor(value)) return BadAdapter(absl::StrCat("'", key, "' is no whole number"));
  *out = static_cast<int64_t>(value);
  return absl::OkStatus();
}

absl::Status ReadBool(const Json& json, const char* key, bool* out) {
  const Json* value = Find(json, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return WrongType(key);
  *out = value->get<bool>();
  return absl::OkStatus();
}

// A string, or a list of strings.
absl::StatusOr<std::vector<std::string>> ReadTexts(const Json& json, const char* key) {
  const Json* value = Find(json, key);
  std::vector<std::string> texts;
  if (value == nullptr) return texts;
  if (value->is_string()) return std::vector<std::string>{value->get<std::string>()};
  if (!value->is_array()) return WrongType(key);
  for (const Json& item : *value) {
    if (!item.is_string()) return WrongType(key);
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

bool IsString(const Json& json, const char* key) {
  const Json* value = Find(json, key);
  return value != nullptr && value->is_string();
}

absl::Status ReadPatterns(const Json& json, const char* key, double low, double high,
                          std::vector<std::pair<Regex, double>>* out) {
  const Json* value = Find(json, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return WrongType(key);
  for (const auto& [pattern, number] : value->items()) {
    if (!number.is_number()) return WrongType(key);
    const double found = number.get<double>();
    if (!(found >= low && found <= high)) return BadAdapter(absl::StrCat("'", key, "' holds ", found));
    ATTUNE_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(absl::StrCat("(?:.*\\.)?(?:", pattern, ")")));
    out->emplace_back(std::move(regex), found);
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const Json& json, PeftTargets* targets) {
  const Json* value = Find(json, "layers_to_transform");
  if (value == nullptr) return absl::OkStatus();
  for (const Json& item : value->is_array() ? *value : Json::array({*value})) {
    if (!item.is_number_integer()) return WrongType("layers_to_transform");
    targets->layers.insert(item.get<int64_t>());
  }
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> patterns, ReadTexts(json, "layers_pattern"));
  if (patterns.empty()) patterns.push_back("[^.]*");
  for (const std::string& pattern : patterns) {
    ATTUNE_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(absl::StrCat("^(?:.*?\\.)?(?:", pattern, ")\\.(\\d+)\\.")));
    targets->layer_patterns.push_back(std::move(regex));
  }
  return absl::OkStatus();
}

// `fallback`: PEFT's choice for this family.
absl::StatusOr<PeftTargets> ReadTargets(const Json& json, std::vector<std::string> fallback) {
  PeftTargets targets;
  ATTUNE_ASSIGN_OR_RETURN(targets.names, ReadTexts(json, "target_modules"));
  if (IsString(json, "target_modules")) {
    targets.all_linear = targets.names[0] == "all-linear";
    if (!targets.all_linear) {
      ATTUNE_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(targets.names[0]));
      targets.pattern = std::move(regex);
    }
    targets.names.clear();
  } else if (Find(json, "target_modules") == nullptr) {
    targets.names = std::move(fallback);
  }
  ATTUNE_ASSIGN_OR_RETURN(targets.excluded_names, ReadTexts(json, "exclude_modules"));
  if (IsString(json, "exclude_modules")) {
    ATTUNE_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(targets.excluded_names[0]));
    targets.excluded_pattern = std::move(regex);
    targets.excluded_names.clear();
  }
  ATTUNE_RETURN_IF_ERROR(ReadLayers(json, &targets));
  return targets;
}

// Starts that leave the base's weights as they are.
absl::Status CheckStart(const Json& json) {
  const Json* start = Find(json, "init_lora_weights");
  if (start == nullptr || start->is_boolean()) return absl::OkStatus();
  for (const char* harmless : {"gaussian", "eva", "orthogonal"}) {
    if (*start == Json(harmless)) return absl::OkStatus();
  }
  return UnsupportedAdapter(absl::StrCat("init_lora_weights ", start->dump()));
}

// PEFT takes every module whose path ends so: "norm" would be those of the layers, too. Just embedding and head may be named.
absl::Status ReadSaved(const Json& json, PeftConfig* config) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<std::string> names, ReadTexts(json, "modules_to_save"));
  for (const std::string& name : names) {
    if (name == "embed_tokens" || name == kEmbeddingModule) {
      config->modules_to_save.insert(kEmbeddingModule);
    } else if (name == kHeadModule) {
      config->modules_to_save.insert(kHeadModule);
    } else {
      return UnsupportedAdapter(absl::StrCat("modules_to_save of '", name, "': it may name embed_tokens and lm_head"));
    }
  }
  return ReadBool(json, "ensure_weight_tying", &config->ensure_weight_tying);
}

absl::Status ReadLora(const Json& json, PeftConfig* config) {
  ATTUNE_RETURN_IF_ERROR(ReadSaved(json, config));
  ATTUNE_RETURN_IF_ERROR(CheckStart(json));
  const Json* bias = Find(json, "bias");
  if (bias != nullptr && *bias != Json("none")) return UnsupportedAdapter(absl::StrCat("bias ", bias->dump()));
  const double limit = 1e6;
  ATTUNE_RETURN_IF_ERROR(ReadInt(json, "r", 1, kMaxRank, &config->rank));
  ATTUNE_RETURN_IF_ERROR(ReadReal(json, "lora_alpha", -limit, limit, &config->alpha));
  ATTUNE_RETURN_IF_ERROR(ReadReal(json, "lora_dropout", 0, 1, &config->dropout));
  ATTUNE_RETURN_IF_ERROR(ReadBool(json, "use_rslora", &config->use_rslora));
  ATTUNE_RETURN_IF_ERROR(ReadBool(json, "use_dora", &config->use_dora));
  ATTUNE_RETURN_IF_ERROR(ReadPatterns(json, "rank_pattern", 1, static_cast<double>(kMaxRank), &config->rank_pattern));
  ATTUNE_RETURN_IF_ERROR(ReadPatterns(json, "alpha_pattern", -limit, limit, &config->alpha_pattern));
  ATTUNE_ASSIGN_OR_RETURN(config->targets, ReadTargets(json, {"q_proj", "v_proj"}));
  return absl::OkStatus();
}

absl::Status ReadIa3(const Json& json, PeftConfig* config) {
  ATTUNE_ASSIGN_OR_RETURN(config->targets, ReadTargets(json, {"k_proj", "v_proj", "down_proj"}));
  ATTUNE_ASSIGN_OR_RETURN(config->feedforward.names, ReadTexts(json, "feedforward_modules"));
  if (IsString(json, "feedforward_modules")) {
    ATTUNE_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(config->feedforward.names[0]));
    config->feedforward.pattern = std::move(regex);
    config->feedforward.names.clear();
  } else if (Find(json, "target_modules") == nullptr) {
    config->feedforward.names = {"down_proj"};
  }
  return absl::OkStatus();
}

absl::Status ReadVirtualTokens(const Json& json, PeftConfig* config) {
  ATTUNE_RETURN_IF_ERROR(ReadInt(json, "num_virtual_tokens", 1, kMaxVirtualTokens, &config->virtual_tokens));
  if (config->virtual_tokens == 0) return BadAdapter("adapter_config.json has no 'num_virtual_tokens'");
  ATTUNE_RETURN_IF_ERROR(ReadInt(json, "token_dim", 1, 1 << 20, &config->token_dim));
  int64_t submodules = 1;
  ATTUNE_RETURN_IF_ERROR(ReadInt(json, "num_transformer_submodules", 1, 1 << 10, &submodules));
  if (submodules != 1) return UnsupportedAdapter(absl::StrCat("num_transformer_submodules ", submodules));
  if (IsString(json, "prompt_tuning_init_text")) config->init_text = json["prompt_tuning_init_text"].get<std::string>();
  return absl::OkStatus();
}

bool IsOneOf(const std::string& module, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return module == name || absl::EndsWith(module, absl::StrCat(".", name));
  });
}

// The value of the first pattern that matches, or the fallback.
absl::StatusOr<double> Lookup(const std::vector<std::pair<Regex, double>>& patterns, const std::string& module,
                              double fallback) {
  for (const auto& [regex, value] : patterns) {
    ATTUNE_ASSIGN_OR_RETURN(bool matches, regex.MatchesAll(module));
    if (matches) return value;
  }
  return fallback;
}

}  // namespace

absl::Status BadAdapter(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ADAPTER", absl::StrCat("Not a usable adapter: ", message));
}

absl::Status UnsupportedAdapter(const std::string& feature) {
  return MakeError(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_ADAPTER",
                   absl::StrCat("The adapter needs what is not supported: ", feature));
}

absl::StatusOr<bool> PeftTargets::Match(const std::string& module) const {
  if (IsOneOf(module, excluded_names)) return false;
  if (excluded_pattern) {
    ATTUNE_ASSIGN_OR_RETURN(bool excluded, excluded_pattern->MatchesAll(module));
    if (excluded) return false;
  }
  if (all_linear) return module != kEmbeddingModule && module != kHeadModule;
  if (pattern) return pattern->MatchesAll(module);
  if (!IsOneOf(module, names)) return false;
  if (layers.empty() || std::find(names.begin(), names.end(), module) != names.end()) return true;
  std::string number;
  for (const Regex& layer_pattern : layer_patterns) {
    ATTUNE_ASSIGN_OR_RETURN(bool found, layer_pattern.FindGroup(module, &number));
    int64_t layer = -1;
    if (found) return absl::SimpleAtoi(number, &layer) && layers.count(layer) > 0;
  }
  return false;
}

absl::StatusOr<int64_t> PeftConfig::RankOf(const std::string& module) const {
  ATTUNE_ASSIGN_OR_RETURN(double found, Lookup(rank_pattern, module, static_cast<double>(rank)));
  return static_cast<int64_t>(found);
}

absl::StatusOr<double> PeftConfig::ScaleOf(const std::string& module, int64_t module_rank) const {
  ATTUNE_ASSIGN_OR_RETURN(double found, Lookup(alpha_pattern, module, alpha));
  const double r = static_cast<double>(module_rank);
  return found / (use_rslora ? std::sqrt(r) : r);
}

absl::StatusOr<PeftConfig> ParsePeftConfig(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return BadAdapter("adapter_config.json holds no JSON object");
  PeftConfig config;
  const Json* type = Find(json, "peft_type");
  if (type == nullptr || !type->is_string()) return BadAdapter("adapter_config.json has no 'peft_type'");
  if (*type == Json("PROMPT_TUNING") || *type == Json("P_TUNING")) {
    config.type = PeftConfig::Type::kSoftPrompt;
  } else if (*type == Json("PREFIX_TUNING")) {
    config.type = PeftConfig::Type::kPrefix;
  } else if (*type == Json("IA3")) {
    config.type = PeftConfig::Type::kIa3;
  } else if (*type != Json("LORA")) {
    return UnsupportedAdapter(absl::StrCat("peft_type ", type->dump()));
  }
  for (const auto& [key, value] : json.items()) {
    if (KnownKeys(config.type).count(key) == 0 && !IsVoid(value)) return UnsupportedAdapter(key);
  }
  const Json* task = Find(json, "task_type");
  if (task != nullptr && *task != Json("CAUSAL_LM"))
    return UnsupportedAdapter(absl::StrCat("task_type ", task->dump()));
  switch (config.type) {
    case PeftConfig::Type::kLora: ATTUNE_RETURN_IF_ERROR(ReadLora(json, &config)); break;
    case PeftConfig::Type::kIa3: ATTUNE_RETURN_IF_ERROR(ReadIa3(json, &config)); break;
    default: ATTUNE_RETURN_IF_ERROR(ReadVirtualTokens(json, &config));
  }
  return config;
}

}  // namespace attune
