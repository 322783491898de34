#ifndef ATTUNE_SERVER_TUNING_CHECKPOINT_H_
#define ATTUNE_SERVER_TUNING_CHECKPOINT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/optimizer.h"

namespace attune {

// Where a job stands, beside its tensors. What a step draws (data order, dropout)
// follows from the seed and the step number, so nothing else is needed to go on.
struct TrainingState {
  int64_t step = 0;  // optimizer steps done
  int64_t trained_tokens = 0;
  double validation_loss = 0, validation_token_accuracy = 0;
  double best_validation_loss = 0;
  int64_t best_step = -1;  // -1: no evaluation yet
  int64_t evaluations_since_best = 0;
  // Of preferences.
  double validation_reward_margin = 0, validation_preference_accuracy = 0;
  // What the tensors belong to, for jobs that start from them. Unset in checkpoints of older versions.
  std::string base_model;            // id
  std::optional<MethodSpec> method;  // with what start values left open filled in
};

// A checkpoint is a folder with state.json and tensors.safetensors: parameters,
// moments. It appears whole or not at all.
absl::Status SaveCheckpoint(const std::string& directory, const TrainingState& state, const Method& method,
                            AdamW* optimizer);

// What a checkpoint says of itself. DATA_LOSS (BAD_CHECKPOINT).
absl::StatusOr<TrainingState> ReadTrainingState(const std::string& directory);

// Restores exactly what was saved. DATA_LOSS (BAD_CHECKPOINT) if a tensor is missing
// or of another shape: then neither method nor optimizer has been touched.
absl::StatusOr<TrainingState> LoadCheckpoint(const std::string& directory, Method* method, AdamW* optimizer);

// Restores the parameters alone, e.g. of the best step before publishing.
absl::Status LoadParameters(const std::string& directory, Method* method);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_CHECKPOINT_H_
