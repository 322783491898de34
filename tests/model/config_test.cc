#include "server/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "tests/testing/gguf_writer.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Llama() {
  return {{"model_type", "llama"},      {"num_hidden_layers", 2},      {"hidden_size", 64},
          {"intermediate_size", 160},   {"num_attention_heads", 4},    {"num_key_value_heads", 2},
          {"vocab_size", 300},          {"max_position_embeddings", 512}, {"rms_norm_eps", 1e-5},
          {"rope_theta", 50000.0},      {"tie_word_embeddings", true}, {"hidden_act", "silu"},
          {"sliding_window", nullptr}};
}

Json With(const char* key, const Json& value) {
  Json json = Llama();
  json[key] = value;
  return json;
}

void ExpectRefused(const Json& json, const std::string& reason, const std::string& names) {
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_FALSE(config.ok()) << json;
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorDetails(config.status()).reason, reason) << config.status();
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(names));
}

GgufWriter LlamaGguf() {
  GgufWriter writer;
  writer.Text("general.architecture", "llama").Int("llama.block_count", 2).Int("llama.embedding_length", 64);
  writer.Int("llama.feed_forward_length", 160).Int("llama.attention.head_count", 4);
  writer.Int("llama.attention.head_count_kv", 2).Int("llama.context_length", 512);
  writer.Real("llama.attention.layer_norm_rms_epsilon", 1e-5).Int("llama.rope.dimension_count", 16);
  writer.Floats("token_embd.weight", {300, 64}, std::vector<float>(300 * 64));
  return writer;
}

absl::StatusOr<ModelConfig> FromGguf(const GgufWriter& writer) {
  std::string bytes = writer.Bytes();
  absl::StatusOr<std::unique_ptr<GgufFile>> file = GgufFile::Parse(bytes);
  if (!file.ok()) return file.status();
  return ConfigFromGguf(**file);
}

TEST(ConfigFromJson, ReadsLlama) {
  absl::StatusOr<ModelConfig> config = ConfigFromJson(Llama().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "llama");
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->qkv_size(), 64 + 2 * 32);
  EXPECT_EQ(config->context, 512);
  EXPECT_DOUBLE_EQ(config->rope_theta, 50000);
  EXPECT_TRUE(config->tied_head);
  int64_t layer = 64 * 128 + 64 * 64 + 3 * 64 * 160 + 2 * 64;
  EXPECT_EQ(config->Parameters(), 2 * layer + 64 + 300 * 64);
}

TEST(ConfigFromJson, ReadsTheRopeParametersOfTransformers5) {
  Json json = Llama();
  json.erase("rope_theta");
  json["rope_parameters"] = {{"rope_theta", 1234.0}, {"rope_type", "default"}};
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_DOUBLE_EQ(config->rope_theta, 1234);
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kNone);
}

TEST(ConfigFromJson, RefusesByName) {
  ExpectRefused(With("model_type", "mamba"), "UNSUPPORTED_MODEL", "mamba");
  ExpectRefused(With("hidden_act", "gelu"), "UNSUPPORTED_MODEL", "hidden_act");
  ExpectRefused(With("quantization_config", {{"bits", 4}}), "UNSUPPORTED_MODEL", "quantization_config");
  ExpectRefused(With("rope_scaling", {{"type", "longrope"}, {"factor", 2}}), "UNSUPPORTED_MODEL", "longrope");
  Json mistral = With("model_type", "mistral");
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    mistral[key] = true;
    ExpectRefused(mistral, "UNSUPPORTED_MODEL", key);
    mistral.erase(key);
  }
}

std::vector<int64_t> WindowsOf(const Json& json) {
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? config->windows : std::vector<int64_t>{-1};
}

TEST(ConfigFromJson, ReadsWindowsAsEachFamilyMeansThem) {
  using Windows = std::vector<int64_t>;
  Json mistral = With("model_type", "mistral");
  EXPECT_EQ(WindowsOf(mistral), Windows()) << "null";
  mistral["sliding_window"] = 128;
  EXPECT_EQ(WindowsOf(mistral), Windows({128, 128}));
  mistral["layer_types"] = {"full_attention", "sliding_attention"};
  ExpectRefused(mistral, "UNSUPPORTED_MODEL", "full_attention");  // which transformers would pass over
  mistral.erase("layer_types");
  mistral.erase("sliding_window");
  EXPECT_EQ(WindowsOf(mistral), Windows({4096, 4096}));
  mistral["sliding_window"] = -1;
  ExpectRefused(mistral, "BAD_MODEL", "sliding_window");
  Json phi3 = With("model_type", "phi3");
  phi3.erase("sliding_window");
  EXPECT_EQ(WindowsOf(phi3), Windows());
  phi3["sliding_window"] = 100;
  EXPECT_EQ(WindowsOf(phi3), Windows({100, 100}));
  Json qwen = With("model_type", "qwen2");
  qwen["sliding_window"] = 128;
  qwen["max_window_layers"] = 1;
  EXPECT_EQ(WindowsOf(qwen), Windows()) << "not used";
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(WindowsOf(qwen), Windows({0, 128}));
  qwen["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(WindowsOf(qwen), Windows({128, 0})) << "goes before max_window_layers";
  qwen["layer_types"] = {"sliding_attention"};
  ExpectRefused(qwen, "BAD_MODEL", "layer_types");
  qwen["layer_types"] = {"sliding_attention", "chunked_attention"};
  ExpectRefused(qwen, "UNSUPPORTED_MODEL", "chunked_attention");
}

// What all layers' kernels are told, and each layer's.
TEST(ConfigFromJson, ReadsGemma3) {
  Json json = With("model_type", "gemma3_text");
  for (const char* key : {"rope_theta", "hidden_act", "sliding_window", "tie_word_embeddings"}) json.erase(key);
  json["num_hidden_layers"] = 7;
  json["head_dim"] = 16;
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->windows, std::vector<int64_t>({4096, 4096, 4096, 4096, 4096, 0, 4096}));
  EXPECT_TRUE(config->qk_norm && config->post_norms && config->scales_embeddings && config->tied_head);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_DOUBLE_EQ(config->rope_theta, 1e6);
  EXPECT_DOUBLE_EQ(config->local_rope_theta, 1e4);
  EXPECT_DOUBLE_EQ(config->query_scalar, 256);
  EXPECT_DOUBLE_EQ(config->logit_softcap, 0);
  EXPECT_TRUE(config->IsLocal(4) && !config->IsLocal(5));

  json["sliding_window_pattern"] = 2;
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  json["rope_local_base_freq"] = 5000;
  config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->Window(1), 0);
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_DOUBLE_EQ(config->local_rope_theta, 5000);
  json.erase("rope_scaling");
  json["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 7.0}}},
                             {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 3.0}}}};
  config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_DOUBLE_EQ(config->rope_theta, 7);
  EXPECT_DOUBLE_EQ(config->local_rope_theta, 3);
  json["rope_parameters"]["sliding_attention"]["rope_type"] = "yarn";
  ExpectRefused(json, "UNSUPPORTED_MODEL", "sliding_attention");
  json.erase("rope_parameters");
  for (const auto& [key, value] : std::map<std::string, Json>{{"use_bidirectional_attention", true},
                                                             {"attn_logit_softcapping", 50.0},
                                                             {"hidden_activation", "gelu"},
                                                             {"sliding_window", nullptr}}) {
    Json other = json;
    other[key] = value;
    ExpectRefused(other, "UNSUPPORTED_MODEL", key);
  }
  ExpectRefused(With("rope_parameters", {{"sliding_attention", {{"rope_theta", 3.0}}}}), "UNSUPPORTED_MODEL", "rope_parameters");
  ExpectRefused(With("model_type", "gemma3"), "UNSUPPORTED_MODEL", "gemma3");  // images, too
}

TEST(ConfigFromJson, ReadsGemma2) {
  Json json = With("model_type", "gemma2");
  json.erase("sliding_window");
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->windows, std::vector<int64_t>({4096, 0}));
  EXPECT_FALSE(config->qk_norm || config->IsLocal(0));
  EXPECT_DOUBLE_EQ(config->attention_softcap, 50);
  EXPECT_DOUBLE_EQ(config->logit_softcap, 30);
  json["attn_logit_softcapping"] = nullptr;
  json["final_logit_softcapping"] = 20.0;
  config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_DOUBLE_EQ(config->attention_softcap, 0);
  EXPECT_DOUBLE_EQ(config->logit_softcap, 20);
  json["final_logit_softcapping"] = -1.0;
  ExpectRefused(json, "BAD_MODEL", "soft cap");
}

TEST(ConfigFromJson, ReadsBiases) {
  ModelConfig plain = *ConfigFromJson(Llama().dump());
  EXPECT_FALSE(plain.qkv_bias || plain.output_bias || plain.mlp_bias);
  ModelConfig attention = *ConfigFromJson(With("attention_bias", true).dump());
  EXPECT_TRUE(attention.qkv_bias && attention.output_bias && !attention.mlp_bias);
  EXPECT_EQ(attention.Parameters(), plain.Parameters() + 2 * (128 + 64));
  ModelConfig mlp = *ConfigFromJson(With("mlp_bias", true).dump());
  EXPECT_TRUE(mlp.mlp_bias && !mlp.qkv_bias && !mlp.output_bias);
  EXPECT_EQ(mlp.Parameters(), plain.Parameters() + 2 * (2 * 160 + 64));
}

TEST(ConfigFromJson, ReadsQwen2) {
  Json json = With("model_type", "qwen2");
  json["use_sliding_window"] = false;
  json["sliding_window"] = 128;
  json["max_window_layers"] = 1;
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "qwen2");
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->output_bias || config->mlp_bias || config->qk_norm);

  json["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_TRUE(ConfigFromJson(json.dump()).ok());
  json["layer_types"] = {"full_attention", "sliding_attention"};
  ExpectRefused(json, "UNSUPPORTED_MODEL", "sliding_attention");
  json.erase("layer_types");
  json["attention_bias"] = true;
  ExpectRefused(json, "UNSUPPORTED_MODEL", "attention_bias");
}

TEST(ConfigFromJson, ReadsQwen3) {
  Json json = With("model_type", "qwen3");
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qk_norm);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_EQ(config->head_dim, 128) << "whatever the hidden size";
  json["head_dim"] = 16;
  json["attention_bias"] = true;
  config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias && config->output_bias);
  EXPECT_EQ(config->Parameters(), ConfigFromJson(With("attention_bias", true).dump())->Parameters() + 2 * 2 * 16);
}

TEST(ConfigFromJson, ReadsPhi3) {
  Json json = With("model_type", "phi3");
  json["original_max_position_embeddings"] = 512;
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->qkv_bias || config->qk_norm);
  EXPECT_EQ(config->Parameters(), ConfigFromJson(Llama().dump())->Parameters());
  json["partial_rotary_factor"] = 0.75;
  ExpectRefused(json, "UNSUPPORTED_MODEL", "partial_rotary_factor");
  json.erase("partial_rotary_factor");
  for (const char* type : {"yarn", "linear"}) {
    json["rope_scaling"] = {{"type", type}, {"factor", 2.0}};
    ExpectRefused(json, "UNSUPPORTED_MODEL", "rope scaling of");
  }
}

// Within the original context, by the short factors; files keep the rest.
TEST(ConfigFromJson, ReadsLongRope) {
  Json json = With("model_type", "phi3");
  json["original_max_position_embeddings"] = 128;
  const std::vector<double> shorts(8, 1.5), longs(8, 3);
  json["rope_scaling"] = {{"type", "longrope"}, {"short_factor", shorts}, {"long_factor", longs}};
  absl::StatusOr<ModelConfig> config = ConfigFromJson(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->context, 128);
  EXPECT_DOUBLE_EQ(config->rope_scaling.attention_factor, std::sqrt(1 + std::log(4.0) / std::log(128.0)));
  EXPECT_DOUBLE_EQ(RopeFrequencies(*config)[0], 1 / 1.5);
  const std::string text = ConfigToJson(*config, 1, 2);
  EXPECT_EQ(Json::parse(text)["max_position_embeddings"], 512);
  absl::StatusOr<ModelConfig> again = ConfigFromJson(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ConfigToJson(*again, 1, 2), text);
  EXPECT_EQ(again->context, 128);
  EXPECT_DOUBLE_EQ(again->rope_scaling.attention_factor, config->rope_scaling.attention_factor);
  json["rope_scaling"]["short_factor"] = {1.0, 2.0};
  ExpectRefused(json, "BAD_MODEL", "short_factor");
  json["rope_scaling"]["short_factor"] = "none";
  ExpectRefused(json, "BAD_MODEL", "short_factor");
  json["rope_scaling"]["short_factor"] = std::vector<double>(8, -1);
  ExpectRefused(json, "BAD_MODEL", "LongRoPE");
  json["rope_scaling"]["short_factor"] = shorts;
  json["partial_rotary_factor"] = 0.75;
  ExpectRefused(json, "UNSUPPORTED_MODEL", "partial_rotary_factor");
}

TEST(ConfigFromJson, ReadsYarn) {
  auto scaling = [](const Json& json) { return ConfigFromJson(With("rope_scaling", json).dump())->rope_scaling; };
  RopeScaling yarn = scaling({{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}});
  EXPECT_EQ(yarn.kind, RopeScaling::Kind::kYarn);
  EXPECT_DOUBLE_EQ(yarn.original_context, 128);
  EXPECT_DOUBLE_EQ(yarn.attention_factor, 0.1 * std::log(4.0) + 1);
  yarn = scaling({{"rope_type", "yarn"}, {"original_max_position_embeddings", 128}});
  EXPECT_DOUBLE_EQ(yarn.factor, 4) << "the context over the original one";
  yarn = scaling({{"rope_type", "yarn"}, {"factor", 4.0}});
  EXPECT_DOUBLE_EQ(yarn.original_context, 512) << "the context";
  yarn = scaling({{"rope_type", "yarn"}, {"factor", 4.0}, {"mscale", 0.7}, {"mscale_all_dim", 0.5}});
  EXPECT_DOUBLE_EQ(yarn.attention_factor, (0.07 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1));
  yarn = scaling({{"rope_type", "yarn"}, {"factor", 4.0}, {"mscale", 0.7}, {"attention_factor", 0.9}});
  EXPECT_DOUBLE_EQ(yarn.attention_factor, 0.9);
  ExpectRefused(With("rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"beta_fast", 1}}), "BAD_MODEL", "beta_fast");
  ExpectRefused(With("rope_scaling", {{"type", "yarn"}, {"factor", -1.0}}), "BAD_MODEL", "factor");
  ExpectRefused(With("rope_scaling", {{"type", "yarn"}, {"original_max_position_embeddings", 0}}), "BAD_MODEL", "factor");
}

TEST(ConfigFromJson, RefusesImpossibleValues) {
  ExpectRefused(With("num_hidden_layers", 0), "BAD_MODEL", "layers");
  ExpectRefused(With("hidden_size", int64_t{1} << 40), "BAD_MODEL", "hidden size");
  ExpectRefused(With("hidden_size", UINT64_MAX), "BAD_MODEL", "hidden_size");
  ExpectRefused(With("num_attention_heads", 0), "BAD_MODEL", "num_attention_heads");
  ExpectRefused(With("num_key_value_heads", 3), "BAD_MODEL", "key/value heads");
  ExpectRefused(With("head_dim", 15), "BAD_MODEL", "odd");
  ExpectRefused(With("rms_norm_eps", -1), "BAD_MODEL", "epsilon");
  ExpectRefused(With("vocab_size", "many"), "BAD_MODEL", "vocab_size");
  ExpectRefused(With("rope_scaling", {{"type", "linear"}, {"factor", 0}}), "BAD_MODEL", "factor");
  ExpectRefused(With("rope_scaling", "linear"), "BAD_MODEL", "rope_scaling");
  Json json = Llama();
  json.erase("intermediate_size");
  ExpectRefused(json, "BAD_MODEL", "intermediate_size");
  ExpectRefused(Json::array(), "BAD_MODEL", "object");
  EXPECT_FALSE(ConfigFromJson("{\"model_type\": ").ok());
}

TEST(ConfigToJson, IsReadBack) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"}) {
    for (const Json& scaling : {Json(nullptr), Json{{"rope_type", "linear"}, {"factor", 2.5}},
                                Json{{"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 24.0}, {"mscale", 0.7},
                                     {"mscale_all_dim", 0.5}, {"truncate", false},
                                     {"original_max_position_embeddings", 64}},
                                Json{{"rope_type", "llama3"}, {"factor", 32.0}, {"low_freq_factor", 1.0},
                                     {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}}}) {
      Json json = With("model_type", family);
      const bool takes_scaling = family != std::string("phi3") && family != std::string("gemma2");
      if (!takes_scaling && !scaling.is_null()) continue;
      json["rope_scaling"] = scaling;
      if (family != std::string("llama")) json["sliding_window"] = 100;
      if (family == std::string("gemma3_text")) json["final_logit_softcapping"] = 12.5;
      json["use_sliding_window"] = true;
      json["max_window_layers"] = 1;
      json.erase("hidden_act");
      json["head_dim"] = 24;
      absl::StatusOr<ModelConfig> first = ConfigFromJson(json.dump());
      ASSERT_TRUE(first.ok()) << first.status();
      std::string text = ConfigToJson(*first, 1, -1);
      absl::StatusOr<ModelConfig> second = ConfigFromJson(text);
      ASSERT_TRUE(second.ok()) << second.status();
      EXPECT_EQ(ConfigToJson(*second, 1, -1), text);
      EXPECT_EQ(second->family, family);
      EXPECT_EQ(second->head_dim, 24);
      EXPECT_EQ(second->rope_scaling.kind, first->rope_scaling.kind);
      EXPECT_EQ(RopeFrequencies(*second), RopeFrequencies(*first));
      EXPECT_EQ(second->rope_scaling.attention_factor, first->rope_scaling.attention_factor);
      EXPECT_EQ(second->qkv_bias, first->qkv_bias);
      EXPECT_EQ(second->windows, first->windows);
      EXPECT_EQ(second->windows.empty(), family == std::string("llama"));
      EXPECT_EQ(second->local_rope_theta, first->local_rope_theta);
      EXPECT_EQ(second->query_scalar, first->query_scalar);
      EXPECT_EQ(second->attention_softcap, first->attention_softcap);
      EXPECT_EQ(second->logit_softcap, first->logit_softcap);
      EXPECT_EQ(second->Parameters(), first->Parameters());
      EXPECT_TRUE(Json::parse(text)["eos_token_id"].is_null());
    }
  }
}

TEST(ConfigFromGguf, ReadsLlama) {
  absl::StatusOr<ModelConfig> config = FromGguf(LlamaGguf());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab, 300);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_TRUE(config->tied_head);
  EXPECT_DOUBLE_EQ(config->rope_theta, 10000);

  GgufWriter untied = LlamaGguf();
  untied.Floats("output.weight", {300, 64}, std::vector<float>(300 * 64)).Real("llama.rope.freq_base", 5e5);
  config = FromGguf(untied);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->tied_head);
  EXPECT_DOUBLE_EQ(config->rope_theta, 5e5);
}

// The same shape under another architecture's keys.
GgufWriter Gguf(const std::string& architecture) {
  GgufWriter writer;
  auto key = [&](const char* name) { return architecture + "." + name; };
  writer.Text("general.architecture", architecture).Int(key("block_count"), 2).Int(key("embedding_length"), 64);
  writer.Int(key("feed_forward_length"), 160).Int(key("attention.head_count"), 4);
  writer.Int(key("attention.head_count_kv"), 2).Int(key("context_length"), 512);
  writer.Floats("token_embd.weight", {300, 64}, std::vector<float>(300 * 64));
  return writer;
}

TEST(ConfigFromGguf, ReadsQwen) {
  absl::StatusOr<ModelConfig> qwen2 = FromGguf(Gguf("qwen2").Real("qwen2.rope.freq_base", 1e6));
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_EQ(qwen2->family, "qwen2");
  EXPECT_TRUE(qwen2->qkv_bias && !qwen2->output_bias && !qwen2->qk_norm);
  EXPECT_DOUBLE_EQ(qwen2->rope_theta, 1e6);
  absl::StatusOr<ModelConfig> qwen3 =
      FromGguf(Gguf("qwen3").Int("qwen3.attention.key_length", 32).Int("qwen3.attention.value_length", 32));
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_TRUE(qwen3->qk_norm && !qwen3->qkv_bias);
  EXPECT_EQ(qwen3->head_dim, 32);
  EXPECT_THAT(std::string(FromGguf(Gguf("qwen2").Int("qwen2.expert_count", 8)).status().message()),
              HasSubstr("qwen2.expert_count"));
}

TEST(ConfigFromGguf, ReadsPhi3) {
  absl::StatusOr<ModelConfig> config = FromGguf(Gguf("phi3").Int("phi3.attention.sliding_window", 0));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "phi3");
  EXPECT_TRUE(config->windows.empty());
  config = FromGguf(Gguf("phi3").Int("phi3.attention.sliding_window", 256));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->windows, std::vector<int64_t>({256, 256}));
  // Files from before the key have a window and do not say so.
  EXPECT_THAT(std::string(FromGguf(Gguf("phi3")).status().message()), HasSubstr("without phi3.attention.sliding_window"));
}

// As a config.json's: the file's context is the stretched one, and the model is held to the original one.
TEST(ConfigFromGguf, ReadsLongRope) {
  const auto file = [](const char* family = "phi3") {
    GgufWriter writer = Gguf(family).Int(absl::StrCat(family, ".attention.sliding_window"), 0);
    return writer.Floats("rope_factors_long.weight", {8}, std::vector<float>(8, 4));
  };
  const auto message = [](const GgufWriter& writer) { return std::string(FromGguf(writer).status().message()); };
  EXPECT_THAT(message(file()), HasSubstr("longrope without rope_factors_short"));
  const auto both = [&file] { return file().Floats("rope_factors_short.weight", {8}, std::vector<float>(8, 1.5)); };
  EXPECT_THAT(message(both()), HasSubstr("phi3.rope.scaling.original_context_length"));
  const auto whole = [&both] { return both().Int("phi3.rope.scaling.original_context_length", 128).Real("phi3.rope.scaling.attn_factor", 1.25); };
  const absl::StatusOr<ModelConfig> config = FromGguf(whole());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->context, 128);
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLongRope);
  EXPECT_EQ(config->rope_scaling.stretched_context, 512);
  EXPECT_DOUBLE_EQ(config->rope_scaling.attention_factor, 1.25);
  EXPECT_EQ(config->rope_scaling.long_factors, std::vector<double>(8, 4));
  EXPECT_DOUBLE_EQ(RopeFrequencies(*config)[0], 1 / 1.5);
  EXPECT_THAT(message(whole().Real("phi3.rope.scaling.factor", 2)), HasSubstr("another scaling with longrope"));
  EXPECT_THAT(message(whole().Text("phi3.rope.scaling.type", "yarn")), HasSubstr("another scaling with longrope"));
  EXPECT_THAT(message(file("qwen2")), HasSubstr("longrope of a qwen2 model"));
  GgufWriter wrong = file().Floats("rope_factors_short.weight", {4}, std::vector<float>(4, 1.5));
  EXPECT_THAT(message(wrong.Int("phi3.rope.scaling.original_context_length", 128)), HasSubstr("rope_factors_short.weight does not fit"));
}

TEST(ConfigFromGguf, ReadsGemma) {
  absl::StatusOr<ModelConfig> config =
      FromGguf(Gguf("gemma3").Int("gemma3.attention.sliding_window", 100).Real("gemma3.rope.freq_base", 1e6));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "gemma3_text");
  EXPECT_EQ(config->windows, std::vector<int64_t>({100, 100})) << "each sixth layer has none";
  EXPECT_DOUBLE_EQ(config->rope_theta, 1e6);
  EXPECT_DOUBLE_EQ(config->local_rope_theta, 1e4);
  EXPECT_DOUBLE_EQ(config->query_scalar, 16);
  EXPECT_DOUBLE_EQ(config->norm_offset, 1);
  config = FromGguf(Gguf("gemma3").Int("gemma3.attention.sliding_window", 100).Int("gemma3.attention.key_length", 8)
                        .Int("gemma3.attention.value_length", 8).Int("gemma3.attention.sliding_window_pattern", 2)
                        .Real("gemma3.rope.freq_base_swa", 500).Real("gemma3.final_logit_softcapping", 9));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->windows, std::vector<int64_t>({100, 0}));
  EXPECT_DOUBLE_EQ(config->local_rope_theta, 500);
  EXPECT_DOUBLE_EQ(config->query_scalar, 8);
  EXPECT_DOUBLE_EQ(config->logit_softcap, 9);
  EXPECT_THAT(std::string(FromGguf(Gguf("gemma3")).status().message()), HasSubstr("without gemma3.attention.sliding_window"));
  GgufWriter capped = Gguf("gemma3").Int("gemma3.attention.sliding_window", 100).Real("gemma3.attn_logit_softcapping", 50);
  EXPECT_THAT(std::string(FromGguf(capped).status().message()), HasSubstr("attn_logit_softcapping"));

  config = FromGguf(Gguf("gemma2").Int("gemma2.attention.sliding_window", 100).Real("gemma2.attn_logit_softcapping", 40));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->windows, std::vector<int64_t>({100, 0}));
  EXPECT_DOUBLE_EQ(config->attention_softcap, 40);
  EXPECT_DOUBLE_EQ(config->logit_softcap, 30);
  EXPECT_FALSE(config->qk_norm);
  EXPECT_THAT(std::string(FromGguf(LlamaGguf().Real("llama.final_logit_softcapping", 30)).status().message()),
              HasSubstr("final_logit_softcapping"));
}

// As llama.cpp takes them.
TEST(ConfigFromGguf, ReadsFactorsWithoutAType) {
  absl::StatusOr<ModelConfig> config = FromGguf(Gguf("qwen2").Real("qwen2.rope.scaling.factor", 4));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(config->rope_scaling.factor, 4);
  config = FromGguf(Gguf("qwen2").Real("qwen2.rope.scale_linear", 2).Text("qwen2.rope.scaling.type", "none"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kNone);
  for (const char* key : {"qwen2.rope.scaling.attn_factor", "qwen2.rope.scaling.alpha"}) {
    EXPECT_THAT(std::string(FromGguf(Gguf("qwen2").Real(key, 2)).status().message()), HasSubstr(key));
  }
}

TEST(ConfigFromGguf, ReadsBiasesWhereTheirTensorsAre) {
  auto with = [](GgufWriter writer, std::vector<std::string> names) {
    for (const std::string& name : names) writer.Floats("blk.0." + name + ".bias", {64}, std::vector<float>(64));
    return FromGguf(writer);
  };
  absl::StatusOr<ModelConfig> config = with(LlamaGguf(), {"attn_q", "attn_output", "ffn_down"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias && config->output_bias && config->mlp_bias);
  EXPECT_THAT(std::string(with(LlamaGguf(), {"attn_q"}).status().message()), HasSubstr("attn_output.bias"));
  EXPECT_THAT(std::string(with(Gguf("qwen2"), {"attn_output"}).status().message()), HasSubstr("attn_output.bias"));
  EXPECT_THAT(std::string(with(Gguf("qwen3"), {"ffn_down"}).status().message()), HasSubstr("ffn_down.bias"));
}

TEST(ConfigFromGguf, ReadsYarn) {
  GgufWriter writer = Gguf("qwen2").Text("qwen2.rope.scaling.type", "yarn").Real("qwen2.rope.scaling.factor", 4);
  writer.Int("qwen2.rope.scaling.original_context_length", 128).Real("qwen2.rope.scaling.attn_factor", 0.5);
  absl::StatusOr<ModelConfig> config = FromGguf(writer);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_DOUBLE_EQ(config->rope_scaling.original_context, 128);
  EXPECT_DOUBLE_EQ(config->rope_scaling.attention_factor, 0.5 * (0.1 * std::log(4.0) + 1));
  EXPECT_THAT(std::string(FromGguf(writer.Real("qwen2.rope.scaling.yarn_log_multiplier", 0.1)).status().message()),
              HasSubstr("yarn_log_multiplier"));
}

TEST(ConfigFromGguf, ReadsScaling) {
  absl::StatusOr<ModelConfig> linear =
      FromGguf(LlamaGguf().Text("llama.rope.scaling.type", "linear").Real("llama.rope.scaling.factor", 4));
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_DOUBLE_EQ(linear->rope_scaling.factor, 4);

  // Llama 3's list: what the frequencies are divided by.
  ModelConfig llama3 = *FromGguf(LlamaGguf());
  std::vector<double> plain = RopeFrequencies(llama3);
  llama3.rope_scaling.kind = RopeScaling::Kind::kLlama3;
  llama3.rope_scaling.factor = 8;
  std::vector<double> scaled = RopeFrequencies(llama3);
  std::vector<float> factors;
  for (size_t i = 0; i < plain.size(); ++i) factors.push_back(static_cast<float>(plain[i] / scaled[i]));
  absl::StatusOr<ModelConfig> read = FromGguf(LlamaGguf().Floats("rope_freqs.weight", {8}, factors));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_NEAR(read->rope_scaling.factor, 8, 1e-5);
  EXPECT_EQ(read->rope_scaling.original_context, 8192);

  // Another original context.
  llama3.rope_scaling.original_context = 256;
  const std::vector<double> others = RopeFrequencies(llama3);
  std::vector<float> other_factors;
  for (size_t i = 0; i < plain.size(); ++i) other_factors.push_back(static_cast<float>(plain[i] / others[i]));
  read = FromGguf(LlamaGguf().Floats("rope_freqs.weight", {8}, other_factors));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->rope_scaling.original_context, 256);

  factors[0] = 3;
  EXPECT_THAT(std::string(FromGguf(LlamaGguf().Floats("rope_freqs.weight", {8}, factors)).status().message()),
              HasSubstr("rope_freqs.weight"));
}

TEST(ConfigFromGguf, RefusesByName) {
  auto message = [](const GgufWriter& writer) { return std::string(FromGguf(writer).status().message()); };
  EXPECT_THAT(message(GgufWriter().Text("general.architecture", "gemma4")), HasSubstr("gemma4"));
  EXPECT_THAT(message(LlamaGguf().Int("llama.expert_count", 8)), HasSubstr("llama.expert_count"));
  EXPECT_THAT(message(LlamaGguf().Text("llama.rope.scaling.type", "longrope")), HasSubstr("longrope"));
  EXPECT_THAT(message(LlamaGguf().Int("llama.attention.sliding_window", 100)), HasSubstr("sliding_window"));
  EXPECT_THAT(message(LlamaGguf().Int("llama.attention.value_length", 32)), HasSubstr("value_length"));
  EXPECT_THAT(message(LlamaGguf().Int("llama.attention.key_length", 32)), HasSubstr("dimension_count"));
  GgufWriter no_embedding;
  no_embedding.Text("general.architecture", "llama").Int("llama.attention.head_count", 4);
  EXPECT_FALSE(FromGguf(no_embedding).ok());
}

TEST(RopeFrequencies, FollowTheFormulas) {
  ModelConfig config;
  config.head_dim = 64;
  config.rope_theta = 500000;
  std::vector<double> plain = RopeFrequencies(config);
  ASSERT_EQ(plain.size(), 32u);
  EXPECT_DOUBLE_EQ(plain[0], 1);
  EXPECT_NEAR(plain[1], std::pow(500000, -2.0 / 64), 1e-12);
  config.rope_scaling.kind = RopeScaling::Kind::kLlama3;
  config.rope_scaling.factor = 8;
  std::vector<double> scaled = RopeFrequencies(config);
  EXPECT_DOUBLE_EQ(scaled[0], plain[0]);           // short waves stay
  EXPECT_DOUBLE_EQ(scaled[31], plain[31] / 8);     // long ones are stretched
  bool blended = false;
  for (size_t i = 0; i < plain.size(); ++i) {
    double stretch = plain[i] / scaled[i];
    EXPECT_GE(stretch, 1 - 1e-12);
    EXPECT_LE(stretch, 8 + 1e-12);
    blended |= stretch > 1.01 && stretch < 7.9;
  }
  EXPECT_TRUE(blended);
}

}  // namespace
}  // namespace attune
