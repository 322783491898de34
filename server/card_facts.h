#ifndef ATTUNE_SERVER_CARD_FACTS_H_
#define ATTUNE_SERVER_CARD_FACTS_H_

#include "server/adapters/model_card.h"
#include "server/adapters/model_info.h"
#include "server/comparison/comparison_store.h"
#include "server/jobs/job_store.h"

namespace attune {

// What the stores know of a model, for its card: its tuning job, and the comparison that made that job, if it has ended
// well and this is the model of one of its methods. What is gone by now is left out.
ModelCardFacts CardFacts(const ModelInfo& info, const JobStore& jobs, const ComparisonStore& comparisons);

}  // namespace attune

#endif  // ATTUNE_SERVER_CARD_FACTS_H_
