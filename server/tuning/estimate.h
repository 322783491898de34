#ifndef ATTUNE_SERVER_TUNING_ESTIMATE_H_
#define ATTUNE_SERVER_TUNING_ESTIMATE_H_

#include <cstdint>

#include "server/jobs/job.h"
#include "server/model/base_model.h"

namespace attune {

// What a job's memory depends on.
struct MemoryInputs {
  int64_t trainable_parameters = 0;
  int64_t micro_batch_tokens = 0;  // the most that one forward pass holds
  int64_t loss_tokens = 0;         // the most of one forward pass
  bool trains_weights = false;     // full or partial tuning
  bool bfloat16 = false;
};

// Peak device memory of training above the base model's weights, bytes: master
// weights, gradients and moments, activations kept for the backward pass, and the
// largest passing buffers.
int64_t EstimateTrainingBytes(const ModelConfig& config, const MemoryInputs& inputs);

// Floating-point operations of training on one token.
double TrainingOperationsPerToken(const ModelConfig& config, bool trains_weights);

// Operations a second that dense products reach on the target: the fastest of the short
// products of this and earlier calls. Takes a tenth of a second; thread-safe.
double MeasuredOperationsPerSecond(const ComputeTarget& target);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_ESTIMATE_H_
