#ifndef ATTUNE_TESTS_TESTING_TINY_FAMILY_H_
#define ATTUNE_TESTS_TESTING_TINY_FAMILY_H_

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/tiny_model.h"

namespace attune {

inline bool IsGemma(const std::string& architecture) { return architecture.starts_with("gemma"); }

// The vectors of each layer that a family has beside Llama's, by GGUF's names.
inline std::vector<std::pair<std::string, int64_t>> FamilyVectors(const std::string& architecture) {
  const int64_t q = TinyModel::kHeads * TinyModel::kHeadDim, kv = TinyModel::kKvHeads * TinyModel::kHeadDim;
  if (architecture == "qwen2") return {{"attn_q.bias", q}, {"attn_k.bias", kv}, {"attn_v.bias", kv}};
  std::vector<std::pair<std::string, int64_t>> vectors;
  if (architecture == "qwen3" || architecture == "gemma3") {
    vectors = {{"attn_q_norm.weight", TinyModel::kHeadDim}, {"attn_k_norm.weight", TinyModel::kHeadDim}};
  }
  if (IsGemma(architecture)) {
    vectors.push_back({"post_attention_norm.weight", TinyModel::kHidden});
    vectors.push_back({"post_ffw_norm.weight", TinyModel::kHidden});
  }
  return vectors;
}

// TinyModel's GGUF file as a model of another family: its weights, and what the family has beside them.
inline void WriteFamilyGguf(const std::string& path, const std::string& architecture) {
  GgufWriter writer;
  auto key = [&](const char* name) { return absl::StrCat(architecture, ".", name); };
  writer.Text("general.architecture", architecture).Int(key("block_count"), TinyModel::kLayers);
  writer.Int(key("embedding_length"), TinyModel::kHidden).Int(key("feed_forward_length"), TinyModel::kIntermediate);
  writer.Int(key("attention.head_count"), TinyModel::kHeads).Int(key("attention.head_count_kv"), TinyModel::kKvHeads);
  writer.Int(key("context_length"), TinyModel::kContext).Real(key("attention.layer_norm_rms_epsilon"), 1e-5);
  if (IsGemma(architecture)) {  // a window in the first layer alone
    writer.Int(key("attention.sliding_window"), 4).Int(key("attention.sliding_window_pattern"), 2);
  }
  if (architecture == "gemma2") {  // caps that scores and logits reach
    writer.Real(key("attn_logit_softcapping"), 0.5).Real(key("final_logit_softcapping"), 3);
  }
  std::vector<std::string> merges;
  for (const auto& [left, right] : TinyModel::Merges()) merges.push_back(absl::StrCat(left, " ", right));
  std::vector<int32_t> kinds(TinyModel::Vocabulary(), 1);
  kinds[0] = kinds[1] = kinds[2] = 3;
  writer.Text("tokenizer.ggml.model", "gpt2").Text("tokenizer.ggml.pre", "qwen2");
  writer.Texts("tokenizer.ggml.tokens", TinyModel::Tokens()).Ints("tokenizer.ggml.token_type", kinds);
  writer.Texts("tokenizer.ggml.merges", merges).Int("tokenizer.ggml.eos_token_id", 0);
  for (const auto& weight : TinyModel::Weights(1)) writer.Floats(weight.gguf_name, weight.shape, weight.values);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int64_t layer = 0; layer < TinyModel::kLayers; ++layer) {
    for (const auto& [name, size] : FamilyVectors(architecture)) {
      std::vector<float> values(size);
      for (float& value : values) value = (name.find("norm") == std::string::npos ? 0 : 1) + 0.2f * normal(random);
      writer.Floats(absl::StrCat("blk.", layer, ".", name), {size}, values);
    }
  }
  TinyModel::Write(path, writer.Bytes());
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_TINY_FAMILY_H_
