#include "server/adapters/formats/peft.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/model/weights/safetensors.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

ModelConfig Config() {
  ModelConfig config;
  config.family = "llama";
  config.layers = 2;
  config.hidden = 32;
  config.intermediate = 64;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.vocab = 100;
  config.context = 64;
  return config;
}

// Writes adapter files and loads them.
class PeftTest : public ::testing::Test {
 protected:
  static Json LoraJson() {
    return {{"peft_type", "LORA"}, {"task_type", "CAUSAL_LM"}, {"r", 4}, {"lora_alpha", 8}, {"bias", "none"},
            {"target_modules", {"q_proj", "down_proj"}}, {"init_lora_weights", true}, {"qalora_group_size", 16},
            {"use_dora", false}, {"modules_to_save", nullptr}, {"loftq_config", Json::object()}};
  }
  void Add(const std::string& name, const at::Tensor& tensor) { tensors_[name] = tensor.contiguous(); }
  void AddModule(const std::string& module, int64_t rank, int64_t out, int64_t in) {
    const std::string prefix = "base_model.model.model.layers." + module;
    Add(prefix + ".lora_A.weight", at::randn({rank, in}));
    Add(prefix + ".lora_B.weight", at::randn({out, rank}));
  }
  void AddLora(int64_t rank = 4) {
    for (const char* layer : {"0", "1"}) {
      AddModule(std::string(layer) + ".self_attn.q_proj", rank, 32, 32);
      AddModule(std::string(layer) + ".mlp.down_proj", rank, 32, 64);
    }
  }
  absl::StatusOr<std::unique_ptr<Adapter>> Load(const Json& json, ComputeTarget target = {}) {
    temp_.Write("adapter_config.json", json.dump());
    std::vector<SafetensorsTensor> out;
    for (const auto& [name, t] : tensors_) {
      const SafetensorsType type = t.scalar_type() == at::kLong   ? SafetensorsType::kI64
                                   : t.scalar_type() == at::kHalf ? SafetensorsType::kF16
                                                                  : SafetensorsType::kF32;
      out.push_back({name, t.sizes().vec(), type,
                     absl::string_view(static_cast<const char*>(t.const_data_ptr()), t.nbytes())});
    }
    EXPECT_TRUE(WriteSafetensors(temp_.File("adapter_model.safetensors"), out, {}).ok());
    return LoadPeft(temp_.path(), Config(), target);
  }
  void ExpectRefused(const Json& json, const std::string& reason, const std::string& names) {
    absl::Status status = Load(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(GetErrorDetails(status).reason, reason) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(names));
  }

  TempFolder temp_;
  std::map<std::string, at::Tensor> tensors_;
};

TEST_F(PeftTest, LoadsLora) {
  AddLora();
  auto adapter = Load(LoraJson());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  const LoraAdapter& lora = *(*adapter)->lora;
  ASSERT_EQ(lora.layers.size(), 2u);
  const LoraModule& q = lora.layers[1][static_cast<int>(Projection::kQ)];
  ASSERT_TRUE(q.defined());
  EXPECT_DOUBLE_EQ(q.scale, 2);
  EXPECT_TRUE(at::equal(q.a_RI, tensors_["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"]));
  EXPECT_FALSE(lora.layers[0][static_cast<int>(Projection::kV)].defined());
  EXPECT_EQ((*adapter)->bytes, 4 * 2 * (4 * 64 + 4 * 96));
  EXPECT_EQ((*adapter)->virtual_tokens(), 0);
}

TEST_F(PeftTest, TakesTheTargetsType) {
  AddLora();
  for (auto& [name, tensor] : tensors_) tensor = tensor.to(at::kHalf);
  ComputeTarget target;
  target.type = ComputeTarget::Type::kBfloat16;
  auto adapter = Load(LoraJson(), target);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ((*adapter)->lora->layers[0][0].a_RI.scalar_type(), at::kBFloat16);
}

TEST_F(PeftTest, AppliesPatternsAndRslora) {
  AddModule("0.self_attn.q_proj", 4, 32, 32);
  AddModule("1.self_attn.q_proj", 9, 32, 32);
  Json json = LoraJson();
  json["target_modules"] = {"q_proj"};
  json["use_rslora"] = true;
  json["rank_pattern"] = {{"layers.1.self_attn.q_proj", 9}, {".*q_proj", 4}};
  json["alpha_pattern"] = {{"model\\.layers\\.0\\..*", 6}};
  auto adapter = Load(json);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_DOUBLE_EQ((*adapter)->lora->layers[0][0].scale, 6 / 2.0);
  EXPECT_DOUBLE_EQ((*adapter)->lora->layers[1][0].scale, 8 / 3.0);
  json.erase("rank_pattern");
  ExpectRefused(json, "BAD_ADAPTER", "layers.1.self_attn.q_proj.lora_A");
}

TEST_F(PeftTest, FindsTargetsAsPeftDoes) {
  AddModule("1.self_attn.q_proj", 4, 32, 32);
  Json json = LoraJson();
  json["target_modules"] = {"q_proj", "down_proj"};
  json["layers_to_transform"] = {1};
  json["exclude_modules"] = {"down_proj"};
  EXPECT_TRUE(Load(json).ok()) << Load(json).status();
  json["layers_to_transform"] = 0;
  ExpectRefused(json, "BAD_ADAPTER", "layers.0.self_attn.q_proj");
  json.erase("layers_to_transform");
  json.erase("exclude_modules");
  json["target_modules"] = "model\\.layers\\.1\\..*q_proj";
  EXPECT_TRUE(Load(json).ok()) << Load(json).status();
  json["target_modules"] = {"model.layers.1.self_attn.q_proj"};
  EXPECT_TRUE(Load(json).ok()) << Load(json).status();
  json["target_modules"] = {"v_proj"};
  ExpectRefused(json, "BAD_ADAPTER", "missing");
  json["target_modules"] = "all-linear";
  ExpectRefused(json, "BAD_ADAPTER", "missing");
  json["target_modules"] = "(((";
  ExpectRefused(json, "BAD_ADAPTER", "regular expression");
  json["target_modules"] = "(([a-z0-9._]+)+)+[!?]";
  ExpectRefused(json, "BAD_ADAPTER", "regular expression");
}

TEST_F(PeftTest, RefusesByName) {
  AddLora();
  ASSERT_TRUE(Load(LoraJson()).ok()) << Load(LoraJson()).status();
  const std::pair<const char*, Json> refused[] = {
      {"modules_to_save", {"norm"}}, {"bias", "all"}, {"init_lora_weights", "pissa"},
      {"init_lora_weights", "olora"}, {"fan_in_fan_out", true}, {"layer_replication", Json::array({{0, 1}})},
      {"target_parameters", {"x"}}, {"lora_bias", true}, {"use_qalora", true}, {"trainable_token_indices", {1}},
      {"alora_invocation_tokens", {1, 2}}, {"task_type", "SEQ_CLS"}, {"peft_type", "LOHA"}, {"of_a_later_version", 3}};
  for (const auto& [key, value] : refused) {
    Json json = LoraJson();
    json[key] = value;
    ExpectRefused(json, "UNSUPPORTED_ADAPTER", key);
  }
}

TEST_F(PeftTest, RefusesBadTensors) {
  AddLora();
  const std::string a = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight";
  const at::Tensor good = tensors_[a];
  Add(a, at::randn({4, 32}));
  ExpectRefused(LoraJson(), "BAD_ADAPTER", a);
  Add(a, at::full({4, 64}, std::numeric_limits<float>::quiet_NaN()));
  ExpectRefused(LoraJson(), "BAD_ADAPTER", a);
  Add(a, at::ones({4, 64}, at::kLong));
  ExpectRefused(LoraJson(), "BAD_ADAPTER", a);
  tensors_.erase(a);
  ExpectRefused(LoraJson(), "BAD_ADAPTER", a);
  Add(a, good);
  AddModule("0.self_attn.v_proj", 4, 16, 32);
  ExpectRefused(LoraJson(), "BAD_ADAPTER", "self_attn.v_proj");
  tensors_.erase("base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight");
  tensors_.erase("base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight");
  Add("base_model.model.lm_head.lora_A.weight", at::randn({4, 32}));
  ExpectRefused(LoraJson(), "BAD_ADAPTER", "lm_head");
}

TEST_F(PeftTest, LoadsEmbeddingsAndHeads) {
  AddLora();
  const std::string head = "base_model.model.lm_head", embedding = "base_model.model.model.embed_tokens";
  Json json = LoraJson();
  json["modules_to_save"] = {"lm_head"};
  ExpectRefused(json, "BAD_ADAPTER", head + ".weight");
  Add(head + ".weight", at::randn({100, 32}));
  ExpectRefused(LoraJson(), "BAD_ADAPTER", "'lm_head', which is not in modules_to_save");
  auto adapter = Load(json);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_TRUE(at::equal((*adapter)->lora->head_VD, tensors_[head + ".weight"]));
  EXPECT_FALSE((*adapter)->lora->changes_embedding());
  EXPECT_EQ((*adapter)->bytes, 4 * (2 * (4 * 64 + 4 * 96) + 100 * 32));
  // As PEFT wrote it before.
  Add(head + ".modules_to_save.weight", tensors_[head + ".weight"]);
  tensors_.erase(head + ".weight");
  adapter = Load(json);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  json["target_modules"] = {"q_proj", "down_proj", "embed_tokens"};
  json["rank_pattern"] = {{"embed_tokens", 5}};
  ExpectRefused(json, "BAD_ADAPTER", embedding + ".lora_embedding_A");
  Add(embedding + ".lora_embedding_A", at::randn({5, 100}));
  Add(embedding + ".lora_embedding_B", at::randn({32, 5}));
  adapter = Load(json);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_DOUBLE_EQ((*adapter)->lora->embedding.scale, 8 / 5.0);
  json["modules_to_save"] = {"lm_head", "embed_tokens"};
  ExpectRefused(json, "BAD_ADAPTER", "in target_modules and in modules_to_save");
  json["modules_to_save"] = {"lm_head"};
  json["use_dora"] = true;
  for (const char* layer : {"0", "1"}) {
    Add(std::string("base_model.model.model.layers.") + layer + ".self_attn.q_proj.lora_magnitude_vector", at::ones({32}));
    Add(std::string("base_model.model.model.layers.") + layer + ".mlp.down_proj.lora_magnitude_vector", at::ones({32}));
  }
  ExpectRefused(json, "UNSUPPORTED_ADAPTER", "use_dora on 'model.embed_tokens'");
}

TEST_F(PeftTest, RefusesBadNumbers) {
  AddLora();
  for (const auto& [key, value] : std::vector<std::pair<const char*, Json>>{
           {"r", 0}, {"r", 1e9}, {"r", 2.5}, {"r", "4"}, {"lora_alpha", "x"}, {"lora_dropout", 2}, {"use_rslora", 1}}) {
    Json json = LoraJson();
    json[key] = value;
    ExpectRefused(json, "BAD_ADAPTER", key);
  }
  ExpectRefused(Json::array(), "BAD_ADAPTER", "object");
}

TEST_F(PeftTest, LoadsSoftPrompts) {
  Add("prompt_embeddings", at::randn({5, 32}));
  for (const char* type : {"PROMPT_TUNING", "P_TUNING"}) {
    Json json = {{"peft_type", type}, {"num_virtual_tokens", 5}, {"token_dim", 32},
                 {"num_transformer_submodules", 1}, {"num_layers", 2}, {"encoder_hidden_size", 32}};
    auto adapter = Load(json);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ((*adapter)->virtual_tokens(), 5);
    EXPECT_TRUE(at::equal((*adapter)->soft_prompt->embeddings_ND, tensors_["prompt_embeddings"]));
    json["num_virtual_tokens"] = 6;
    ExpectRefused(json, "BAD_ADAPTER", "prompt_embeddings");
    json["num_virtual_tokens"] = 64;
    ExpectRefused(json, "BAD_ADAPTER", "context");
    json["num_virtual_tokens"] = 5;
    json["token_dim"] = 48;
    ExpectRefused(json, "BAD_ADAPTER", "token_dim");
  }
}

TEST_F(PeftTest, RefusesPickle) {
  temp_.Write("adapter_config.json", LoraJson().dump());
  temp_.Write("adapter_model.bin", "pickle");
  EXPECT_EQ(GetErrorDetails(LoadPeft(temp_.path(), Config(), {}).status()).reason, "PICKLE_REFUSED");
}

TEST_F(PeftTest, SavedLoraIsReadBack) {
  AddModule("0.self_attn.q_proj", 4, 32, 32);
  AddModule("1.self_attn.q_proj", 9, 32, 32);
  AddModule("1.mlp.gate_proj", 4, 64, 32);
  Json json = LoraJson();
  json["target_modules"] = {"q_proj", "model.layers.1.mlp.gate_proj"};
  json["lora_alpha"] = 12.5;
  json["lora_dropout"] = 0.05;
  json["use_rslora"] = true;
  json["rank_pattern"] = {{"layers.1.self_attn.q_proj", 9}};
  json["alpha_pattern"] = {{"gate_proj", 3}};
  auto first = Load(json);
  ASSERT_TRUE(first.ok()) << first.status();
  TempFolder saved;
  ASSERT_TRUE(SavePeft(saved.path(), **first, Config(), "base").ok());
  auto second = LoadPeft(saved.path(), Config(), {});
  ASSERT_TRUE(second.ok()) << second.status();
  const LoraAdapter &a = *(*first)->lora, &b = *(*second)->lora;
  EXPECT_EQ(b.rank, 4);
  EXPECT_DOUBLE_EQ(b.alpha, 12.5);
  EXPECT_DOUBLE_EQ(b.dropout, 0.05);
  EXPECT_TRUE(b.use_rslora);
  for (size_t layer = 0; layer < 2; ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      ASSERT_EQ(a.layers[layer][p].defined(), b.layers[layer][p].defined());
      if (!a.layers[layer][p].defined()) continue;
      EXPECT_NEAR(a.layers[layer][p].scale, b.layers[layer][p].scale, 1e-12);
      EXPECT_TRUE(at::equal(a.layers[layer][p].a_RI, b.layers[layer][p].a_RI));
      EXPECT_TRUE(at::equal(a.layers[layer][p].b_OR, b.layers[layer][p].b_OR));
    }
  }
  Json config = Json::parse(ReadFile(saved.File("adapter_config.json")).value());
  EXPECT_EQ(config["base_model_name_or_path"], "base");
  EXPECT_EQ(config["task_type"], "CAUSAL_LM");
}

TEST_F(PeftTest, SavedSoftPromptIsReadBack) {
  Adapter adapter;
  adapter.soft_prompt = std::make_unique<SoftPrompt>();
  adapter.soft_prompt->embeddings_ND = at::randn({3, 32}).set_requires_grad(true);
  adapter.soft_prompt->init_text = "Classify:";
  ASSERT_TRUE(SavePeft(temp_.path(), adapter, Config(), "base").ok());
  auto read = LoadPeft(temp_.path(), Config(), {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(at::equal((*read)->soft_prompt->embeddings_ND, adapter.soft_prompt->embeddings_ND.detach()));
  EXPECT_EQ((*read)->soft_prompt->init_text, "Classify:");
}

}  // namespace
}  // namespace attune
