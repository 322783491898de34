#ifndef ATTUNE_SERVER_TUNING_DEFAULTS_H_
#define ATTUNE_SERVER_TUNING_DEFAULTS_H_

#include <cstdint>

#include "server/jobs/job.h"
#include "server/model/compute_target.h"

namespace attune {

// What `auto` depends on.
struct AutoInputs {
  int64_t parameters = 0;  // of the base model
  int64_t train_examples = 0;
  int64_t train_tokens = 0, validation_tokens = 0;  // one pass
  ComputeTarget target;
  bool is_preference = false;  // with dpo, whose gradient needs no help to go far: a tenth of the rates
};

// Whether a method trains the model's own weights, all or some.
bool TrainsWeights(const MethodSpec& method);

// Replaces every `auto` and unset field by its value, so that a run needs no default
// of its own. Learning rates and start values are those that each method is known to
// work with (tests/bench/results tells where we measured). max_steps is always set.
Hyperparameters ResolveHyperparameters(const MethodSpec& method, const Hyperparameters& given,
                                       const AutoInputs& inputs);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_DEFAULTS_H_
