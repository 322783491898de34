#ifndef ATTUNE_TESTS_TESTING_TINY_MODEL_H_
#define ATTUNE_TESTS_TESTING_TINY_MODEL_H_

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/model/weights/safetensors.h"
#include "server/tokenizer/byte_alphabet.h"
#include "tests/testing/gguf_writer.h"

// A random Llama of 2 layers with a byte-level tokenizer, small enough to load in
// milliseconds: files for tests. Needs the libraries attune_weights and attune_tokenizer.
namespace attune {

struct TinyModel {
  static constexpr int64_t kLayers = 2, kHidden = 32, kIntermediate = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 8;
  static constexpr int64_t kContext = 128;

  // Ids 0 to 2 are special ("<|endoftext|>" ends answers), then the 256 bytes, then merged tokens.
  static std::vector<std::string> Tokens() {
    std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteAlphabetChar(static_cast<uint8_t>(byte)));
    for (const auto& [left, right] : Merges()) tokens.push_back(left + right);
    return tokens;
  }
  static std::vector<std::pair<std::string, std::string>> Merges() {
    const std::string space = ByteAlphabetChar(' ');
    return {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {space, "t"}, {space + "t", "he"}};
  }
  static int64_t Vocabulary() { return static_cast<int64_t>(Tokens().size()); }

  // Hugging Face name, shape and values of every weight; the head is the embedding table.
  struct Weight {
    std::string name, gguf_name;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  static std::vector<Weight> Weights(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<Weight> weights;
    auto add = [&](const std::string& name, const std::string& gguf_name, std::vector<int64_t> shape) {
      int64_t elements = 1;
      for (int64_t size : shape) elements *= size;
      std::vector<float> values(elements);
      const bool norm = shape.size() == 1;
      for (float& value : values) value = norm ? 1 + 0.1f * normal(random) : 0.2f * normal(random);
      weights.push_back({name, gguf_name, std::move(shape), std::move(values)});
    };
    add("model.embed_tokens.weight", "token_embd.weight", {Vocabulary(), kHidden});
    for (int64_t i = 0; i < kLayers; ++i) {
      const std::string hf = absl::StrCat("model.layers.", i, "."), gguf = absl::StrCat("blk.", i, ".");
      add(hf + "self_attn.q_proj.weight", gguf + "attn_q.weight", {kHeads * kHeadDim, kHidden});
      add(hf + "self_attn.k_proj.weight", gguf + "attn_k.weight", {kKvHeads * kHeadDim, kHidden});
      add(hf + "self_attn.v_proj.weight", gguf + "attn_v.weight", {kKvHeads * kHeadDim, kHidden});
      add(hf + "self_attn.o_proj.weight", gguf + "attn_output.weight", {kHidden, kHeads * kHeadDim});
      add(hf + "mlp.gate_proj.weight", gguf + "ffn_gate.weight", {kIntermediate, kHidden});
      add(hf + "mlp.up_proj.weight", gguf + "ffn_up.weight", {kIntermediate, kHidden});
      add(hf + "mlp.down_proj.weight", gguf + "ffn_down.weight", {kHidden, kIntermediate});
      add(hf + "input_layernorm.weight", gguf + "attn_norm.weight", {kHidden});
      add(hf + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", {kHidden});
    }
    add("model.norm.weight", "output_norm.weight", {kHidden});
    return weights;
  }

  static void Write(const std::string& path, const std::string& contents) {
    std::ofstream(path, std::ios::binary) << contents;
  }

  // A GGUF file.
  static void WriteGguf(const std::string& path, uint32_t seed = 1) {
    GgufWriter writer;
    writer.Text("general.architecture", "llama").Int("llama.block_count", kLayers);
    writer.Int("llama.embedding_length", kHidden).Int("llama.feed_forward_length", kIntermediate);
    writer.Int("llama.attention.head_count", kHeads).Int("llama.attention.head_count_kv", kKvHeads);
    writer.Int("llama.context_length", kContext).Int("llama.rope.dimension_count", kHeadDim);
    writer.Real("llama.attention.layer_norm_rms_epsilon", 1e-5);
    std::vector<std::string> merges;
    for (const auto& [left, right] : Merges()) merges.push_back(absl::StrCat(left, " ", right));
    std::vector<int32_t> kinds(Vocabulary(), 1);
    kinds[0] = kinds[1] = kinds[2] = 3;
    writer.Text("tokenizer.ggml.model", "gpt2").Text("tokenizer.ggml.pre", "smollm");
    writer.Texts("tokenizer.ggml.tokens", Tokens()).Ints("tokenizer.ggml.token_type", kinds);
    writer.Texts("tokenizer.ggml.merges", merges);
    writer.Int("tokenizer.ggml.bos_token_id", 1).Int("tokenizer.ggml.eos_token_id", 0);
    writer.Bool("tokenizer.ggml.add_bos_token", false);
    for (const Weight& weight : Weights(seed)) writer.Floats(weight.gguf_name, weight.shape, weight.values);
    Write(path, writer.Bytes());
  }

  static std::string Config() {
    return nlohmann::json{{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}},
                          {"num_hidden_layers", kLayers}, {"hidden_size", kHidden},
                          {"intermediate_size", kIntermediate}, {"num_attention_heads", kHeads},
                          {"num_key_value_heads", kKvHeads}, {"vocab_size", Vocabulary()},
                          {"max_position_embeddings", kContext}, {"rms_norm_eps", 1e-5},
                          {"tie_word_embeddings", true}, {"hidden_act", "silu"}, {"bos_token_id", 1},
                          {"eos_token_id", 0}}
        .dump(2);
  }

  // A tokenizer.json with the same ids as the GGUF file's vocabulary, but GPT-2's splitting.
  static std::string TokenizerJson() {
    using Json = nlohmann::json;
    Json vocabulary = Json::object(), added = Json::array(), merges = Json::array();
    const std::vector<std::string> tokens = Tokens();
    for (size_t id = 0; id < tokens.size(); ++id) vocabulary[tokens[id]] = id;
    for (int id = 0; id < 3; ++id) {
      added.push_back({{"id", id}, {"content", tokens[id]}, {"single_word", false}, {"lstrip", false},
                       {"rstrip", false}, {"normalized", false}, {"special", true}});
    }
    for (const auto& [left, right] : Merges()) merges.push_back(Json::array({left, right}));
    const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true},
                             {"use_regex", true}};
    return Json{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added},
                {"normalizer", nullptr}, {"pre_tokenizer", byte_level}, {"post_processor", nullptr},
                {"decoder", byte_level},
                {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr},
                           {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                           {"fuse_unk", false}, {"byte_fallback", false}, {"vocab", vocabulary}, {"merges", merges}}}}
        .dump();
  }

  // A Hugging Face folder, which is made.
  static absl::Status WriteHuggingFace(const std::string& folder, uint32_t seed = 1) {
    std::filesystem::create_directories(folder);
    Write(folder + "/config.json", Config());
    Write(folder + "/tokenizer.json", TokenizerJson());
    Write(folder + "/tokenizer_config.json",
          R"({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"})");
    const std::vector<Weight> weights = Weights(seed);
    std::vector<SafetensorsTensor> tensors;
    for (const Weight& weight : weights) {
      tensors.push_back({weight.name, weight.shape, SafetensorsType::kF32,
                         absl::string_view(reinterpret_cast<const char*>(weight.values.data()),
                                           weight.values.size() * sizeof(float))});
    }
    return WriteSafetensors(folder + "/model.safetensors", tensors, {{"format", "pt"}});
  }
};

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_TINY_MODEL_H_
