#ifndef ATTUNE_SERVER_MODEL_ROPE_H_
#define ATTUNE_SERVER_MODEL_ROPE_H_

#include "server/model/base_model.h"
#include "server/model/config.h"
#include "server/model/kernels/attention.h"

namespace attune {

// By kinds of layers. `local` is undefined where all turn alike.
struct RopeTables {
  RopeTable global, local;

  const RopeTable& Of(const ModelConfig& config, int64_t layer) const { return config.IsLocal(layer) ? local : global; }
};

// The model's rotary factors for every position of its context, YaRN's attention factor in them, on the CPU. Angles as transformers computes them:
// frequency, product and cosine in fp32, so that long contexts agree with it to the last bit.
RopeTables MakeRopeTables(const ModelConfig& config);
// Those of a model in memory.
RopeTables RopeTablesOf(const BaseModel& base);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_ROPE_H_
