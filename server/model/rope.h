#ifndef ATTUNE_SERVER_MODEL_ROPE_H_
#define ATTUNE_SERVER_MODEL_ROPE_H_

#include "server/model/config.h"
#include "server/model/kernels/attention.h"

namespace attune {

// The model's rotary factors for every position of its context, YaRN's attention factor in them, on the CPU. Angles as transformers computes them:
// frequency, product and cosine in fp32, so that long contexts agree with it to the last bit.
RopeTable MakeRopeTable(const ModelConfig& config);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_ROPE_H_
