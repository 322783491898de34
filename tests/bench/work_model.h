#ifndef ATTUNE_TESTS_BENCH_WORK_MODEL_H_
#define ATTUNE_TESTS_BENCH_WORK_MODEL_H_

#include <cstdint>
#include <memory>

#include "nlohmann/json.hpp"
#include "tests/testing/random_model.h"

namespace attune {

// A random Llama of the sizes that a benchmark's work names: "layers", "hidden", "intermediate",
// "heads", "kv_heads", "vocab", "tied_head" (true), "quantization" (none).
inline std::shared_ptr<const BaseModel> MakeWorkModel(const nlohmann::json& work, const ComputeTarget& target,
                                                      int64_t context) {
  ModelConfig c;
  c.family = "llama";
  c.layers = work.at("layers");
  c.hidden = work.at("hidden");
  c.intermediate = work.at("intermediate");
  c.heads = work.at("heads");
  c.kv_heads = work.at("kv_heads");
  c.head_dim = c.hidden / c.heads;
  c.vocab = work.at("vocab");
  c.context = context;
  c.tied_head = work.value("tied_head", true);
  return MakeRandomModel(c, target, ParseWeightFormat(work.value("quantization", "none")));
}

}  // namespace attune

#endif  // ATTUNE_TESTS_BENCH_WORK_MODEL_H_
