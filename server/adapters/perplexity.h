#ifndef ATTUNE_SERVER_ADAPTERS_PERPLEXITY_H_
#define ATTUNE_SERVER_ADAPTERS_PERPLEXITY_H_

#include "server/model/base_model.h"

namespace attune {

// How well a model foretells a fixed English text of a few hundred tokens: exp of the mean negative
// log-probability. By its dense weights, and as it decodes: by blocks, where it has them.
struct PerplexityPair {
  double dense = 0, decoding = 0;
};
PerplexityPair MeasurePerplexity(const BaseModel& base);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_PERPLEXITY_H_
