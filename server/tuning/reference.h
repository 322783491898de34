#ifndef ATTUNE_SERVER_TUNING_REFERENCE_H_
#define ATTUNE_SERVER_TUNING_REFERENCE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/batcher.h"
#include "server/device/arbiter.h"
#include "server/model/base_model.h"
#include "server/tuning/pass_batch.h"

namespace attune {

// The sum over each example's answer of its tokens' log-probabilities, nats, in the examples' order. `losses` gives
// -log p of a batch's loss rows, on the host. `stop`, which may be null, is asked between micro-batches; true gives
// CANCELLED.
absl::StatusOr<std::vector<double>> SumAnswers(const Batcher& batches, int64_t examples, const ComputeTarget& target,
                                               const std::function<at::Tensor(const PassBatch&)>& losses,
                                               const std::function<bool()>& stop);

// The same by the base model with no adapter, computing in `type`: what preferences are measured against. Needs no
// second copy of the weights, also where they train: trained ones are copies. `arbiter` may be null.
absl::StatusOr<std::vector<double>> ScoreAnswersOfBase(const BaseModel& base, at::ScalarType type,
                                                       const Batcher& batches, int64_t examples, Arbiter* arbiter,
                                                       const std::function<bool()>& stop);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_REFERENCE_H_
