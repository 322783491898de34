#ifndef ATTUNE_TESTS_TESTING_RANDOM_ADAPTER_H_
#define ATTUNE_TESTS_TESTING_RANDOM_ADAPTER_H_

#include <ATen/ATen.h>

#include <memory>

#include "server/adapters/adapter.h"
#include "server/adapters/dora.h"

namespace attune {

// Adapters far from doing nothing, in the type and on the device that `options` say.

inline std::unique_ptr<Adapter> RandomPrefix(const ModelConfig& config, int64_t tokens,
                                             const at::TensorOptions& options = {}, double size = 1) {
  auto adapter = std::make_unique<Adapter>();
  adapter->prefix = std::make_unique<Prefix>();
  adapter->prefix->keys_values_LNE = (at::randn({config.layers, tokens, 2 * config.kv_size()}) * size).to(options);
  return adapter;
}

// On all projections, with scale 2, or, without `all`, on every other one.
inline std::unique_ptr<Adapter> RandomLoraOfRank(const ModelConfig& config, int64_t rank,
                                                 const at::TensorOptions& options = {}, bool all = true) {
  auto adapter = std::make_unique<Adapter>();
  adapter->lora = std::make_unique<LoraAdapter>();
  adapter->lora->rank = rank;
  adapter->lora->layers.resize(config.layers);
  for (auto& layer : adapter->lora->layers) {
    for (int p = 0; p < kProjections; ++p) {
      if (!all && p % 2 == 0) continue;
      const ProjectionSlice slice = SliceOf(config, static_cast<Projection>(p));
      layer[p] = {(at::randn({rank, InputSize(config, slice.linear)}) * 0.05).to(options),
                  (at::randn({slice.rows, rank}) * 0.05).to(options), 2.0};
    }
  }
  return adapter;
}

// Which part of the vocabulary's side an adapter has for its own.
struct VocabularyKind {
  const char* name;
  bool embedding_table, head_table, embedding_lora, head_lora;
};
inline constexpr VocabularyKind kRandomVocabularies[] = {{"tables", true, true, false, false},
                                                         {"embedding", true, false, false, false},
                                                         {"head", false, true, false, false},
                                                         {"loras", false, false, true, true},
                                                         {"mixed", false, true, true, false}};

inline void AddRandomVocabulary(const ModelConfig& config, const VocabularyKind& kind, LoraAdapter* lora,
                                const at::TensorOptions& options = {}) {
  const auto random = [&](int64_t rows, int64_t columns, double size) {
    return (at::randn({rows, columns}) * size).to(options);
  };
  if (kind.embedding_table) lora->embedding_VD = random(config.vocab, config.hidden, 0.3);
  if (kind.head_table) lora->head_VD = random(config.vocab, config.hidden, 0.3);
  if (kind.embedding_lora) lora->embedding = {random(5, config.vocab, 0.3), random(config.hidden, 5, 0.3), 1.5};
  if (kind.head_lora) lora->head = {random(6, config.hidden, 0.3), random(config.vocab, 6, 0.3), 0.5};
}

// The same with DoRA's magnitudes, not those of the base model's rows.
inline std::unique_ptr<Adapter> RandomDora(const BaseModel& base, int64_t rank, const at::TensorOptions& options = {},
                                           bool all = true) {
  auto adapter = RandomLoraOfRank(base.config, rank, options, all);
  adapter->lora->use_dora = true;
  for (int64_t i = 0; i < base.config.layers; ++i) {
    for (int p = 0; p < kProjections; ++p) {
      LoraModule& module = adapter->lora->layers[i][p];
      if (!module.defined()) continue;
      const at::Tensor norms =
          RowNorms(ProjectionWeight(base.config, base.weights.layers[i], static_cast<Projection>(p), at::kFloat), module);
      module.magnitude_O = (norms * (1 + 0.3 * at::randn_like(norms))).to(options);
    }
  }
  PrepareDora(base, adapter->lora.get());
  return adapter;
}

// IA3 on the projections that it is for, and on some others.
inline std::unique_ptr<Adapter> RandomIa3(const ModelConfig& config, const at::TensorOptions& options = {},
                                          double size = 0.3) {
  auto adapter = std::make_unique<Adapter>();
  adapter->ia3 = std::make_unique<Ia3Adapter>();
  adapter->ia3->layers.resize(config.layers);
  auto scales = [&](int64_t count) { return (1 + at::randn({count}) * size).to(options); };
  for (Ia3Adapter::Layer& layer : adapter->ia3->layers) {
    for (Projection projection : {Projection::kK, Projection::kV, Projection::kO, Projection::kGate}) {
      layer.output[static_cast<int>(projection)] = scales(SliceOf(config, projection).rows);
    }
    layer.inner_I = scales(config.intermediate);
  }
  return adapter;
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_RANDOM_ADAPTER_H_
