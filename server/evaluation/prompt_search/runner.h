#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_RUNNER_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_RUNNER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/registry.h"
#include "server/adapters/residency.h"
#include "server/data/dataset_store.h"
#include "server/device/energy_share.h"
#include "server/engine/engine.h"
#include "server/jobs/runner_interface.h"

namespace attune {

// All pointers must outlive the runner.
struct PromptSearchDeps {
  // Residency::Acquire, or a test's own.
  std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)> models;
  const DatasetStore* datasets = nullptr;
  ModelRegistry* registry = nullptr;
  Engine* engine = nullptr;
  EnergyShare* energy = nullptr;  // may be null: then no energy is told
  // A job's checkpoint, every answer of the model so far, is in {checkpoint_directory}/{job}/{calls}.
  std::string checkpoint_directory;
};

// Runs text prompt searches from data to published model, through the engine, where requests of
// people go first. Thread-safe.
std::unique_ptr<JobRunner> MakePromptSearchRunner(PromptSearchDeps deps);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_RUNNER_H_
