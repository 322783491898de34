#ifndef ATTUNE_SERVER_ADAPTERS_MERGE_ADAPTER_H_
#define ATTUNE_SERVER_ADAPTERS_MERGE_ADAPTER_H_

#include "server/adapters/adapter.h"
#include "server/model/base_model.h"

namespace attune {

// The weights with a LoRA or IA3 worked into them, embedding and head included: what was changed is a new tensor on the CPU, in the weights' type, the
// rest is shared. REQUIRES: the adapter has no virtual tokens. Throws what libtorch throws.
DecoderWeights MergeAdapter(const ModelConfig& config, const DecoderWeights& weights, const Adapter& adapter);

// The configuration of merged weights: a head that is no longer the embedding's table is not tied.
ModelConfig ConfigOf(const ModelConfig& config, const DecoderWeights& merged);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_MERGE_ADAPTER_H_
