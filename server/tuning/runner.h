#ifndef ATTUNE_SERVER_TUNING_RUNNER_H_
#define ATTUNE_SERVER_TUNING_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.h"
#include "server/adapters/registry.h"
#include "server/adapters/residency.h"
#include "server/data/dataset_store.h"
#include "server/device/arbiter.h"
#include "server/device/energy_share.h"
#include "server/jobs/runner_interface.h"
#include "server/model/compute_target.h"

// No torch headers here: the server includes this file.
namespace attune {

// All pointers must outlive the runner.
struct TuningRunnerDeps {
  DatasetStore* datasets = nullptr;
  ModelRegistry* registry = nullptr;
  Residency* residency = nullptr;
  Arbiter* arbiter = nullptr;
  EnergyShare* energy = nullptr;  // may be null: then no energy is told
  const Clock* clock = nullptr;
  ComputeTarget target;
  // A job's checkpoints are in {checkpoint_directory}/{job}/{step}.
  std::string checkpoint_directory;
  // Told of every optimizer step; may be null. Must not block.
  std::function<void(const std::string& base_model, int64_t tokens, double seconds, double loss)> on_step;
};

// Runs tuning jobs from data to published model. Thread-safe.
std::unique_ptr<JobRunner> MakeTuningRunner(const TuningRunnerDeps& deps);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_RUNNER_H_
