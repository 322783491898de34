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
  int64_t lora_rank = 0;           // of each of the seven projections
  bool adapts_embedding = false, adapts_head = false;  // with that rank, too
  bool trains_weights = false;     // full or partial tuning
  bool bfloat16 = false;
  bool quantized = false;              // the base model's weights
  bool is_8bit_optimizer = false;
  bool on_gpu = false;
  int64_t pairs = 0;         // of preferences in one forward pass, at most; 0: none
  bool has_teacher = false;  // distillation
  int64_t activation_bytes = 0;  // layers keep what fits; see ChooseKeep. 0: everything
};

// Peak device memory of training above the base model's weights, bytes: master weights,
// gradients and moments, what the layers keep for their backward passes, and the largest
// passing buffers. Follows DirectPass step by step: what is allocated there is counted here.
int64_t EstimateTrainingBytes(const ModelConfig& config, const MemoryInputs& inputs);

// What a new job's layers may keep: half of what the optimizer leaves of the memory that is
// free now, but at least an eighth of what weights and optimizer leave of the whole device,
// so that a job that comes while others run is not slow for ever. At least a byte.
int64_t ActivationBudget(int64_t device_bytes, int64_t free_bytes, int64_t weight_bytes, const MemoryInputs& inputs);

// The budget of a job that was admitted with `training_bytes`: the largest whose estimate
// they cover, at least a byte. The same each time the job runs.
int64_t ActivationBudgetWithin(int64_t training_bytes, const ModelConfig& config, MemoryInputs inputs);

// Floating-point operations of training on one token.
double TrainingOperationsPerToken(const ModelConfig& config, bool trains_weights);

// Operations a second that dense products reach on the target: the fastest of the short
// products of this and earlier calls. Takes a tenth of a second; thread-safe.
double MeasuredOperationsPerSecond(const ComputeTarget& target);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_ESTIMATE_H_
