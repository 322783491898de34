#ifndef ATTUNE_SERVER_TUNING_RUN_H_
#define ATTUNE_SERVER_TUNING_RUN_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/data/batcher.h"
#include "server/model/memory_meter.h"
#include "server/tuning/checkpoint.h"
#include "server/tuning/estimate.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/prepare.h"
#include "server/tuning/runner.h"
#include "server/tuning/trainer.h"

namespace attune {

// A job's base model, data and resolved settings: what an estimate needs, and what a
// run starts from.
struct PlannedRun {
  std::shared_ptr<const ServedModel> model;
  PreparedData data;
  MethodSpec method;  // with what start values left open filled in
  std::function<absl::Status(Method*)> put_start_values;  // null: the method's own
  std::shared_ptr<const ServedModel> teacher;  // of a distillation, until it has read the examples
  Hyperparameters hyperparameters;  // resolved
  int64_t virtual_tokens = 0;
  int64_t trainable_parameters = 0;
};

// Loads, renders and resolves. Errors of everything that is wrong with the job's
// settings, data or base model. For an estimate a model that would be quantised is
// described and not loaded: only a running job has the memory.
enum class PlanFor { kRun, kEstimate };
absl::StatusOr<PlannedRun> PlanRun(const TuningRunnerDeps& deps, const JobSpec& spec, PlanFor use,
                                   const std::function<bool()>& stop);

// What the plan's memory depends on, but for the activations' budget.
MemoryInputs MemoryInputsOf(const TuningRunnerDeps& deps, const PlannedRun& plan, const JobSpec& spec);
// What a quantised base model takes, which is the job's; 0 for one that others use, too.
int64_t QuantizedWeightBytes(const TuningRunnerDeps& deps, const PlannedRun& plan);

// One run of one job: steps, evaluations, checkpoints, publishing. Not thread-safe.
class TuningRun {
 public:
  // All but the plan must outlive this; `joint`, which may be null, lets small jobs share passes.
  TuningRun(const TuningRunnerDeps& deps, JointPasses* joint, const Job& job, JobControl& control, PlannedRun plan);
  absl::StatusOr<JobOutcome> Run();

 private:
  // Sets what the preferences are measured against: by the base model or, if the job has one, by the start.
  absl::Status ScoreReferences();
  // Has the teacher of a distillation read the examples.
  absl::Status AskTeacher();
  absl::Status Restore();
  // Steps until the end or a stop; true if all steps are done.
  absl::StatusOr<bool> Train();
  absl::Status TakeStep();
  absl::Status EvaluateNow();
  void AddEnergy(std::optional<double> joules);
  // Saves the current state; keeps at most max_checkpoints, the best among them.
  absl::Status Checkpoint();
  absl::Status DropOldCheckpoints();
  absl::StatusOr<JobOutcome> Publish();
  ModelInfo DescribeTunedModel() const;
  bool Stopped() const { return control_.stop_request() != StopRequest::kNone; }
  bool ShouldStopEarly() const;
  std::string CheckpointPath(int64_t step) const;
  JobProgress Progress() const;

  const TuningRunnerDeps& deps_;
  JointPasses* const joint_;
  const Job& job_;
  JobControl& control_;
  PlannedRun plan_;
  EnergyShare::Part energy_;
  MemoryMeter memory_;
  std::unique_ptr<Method> method_;
  std::unique_ptr<Batcher> train_, validation_;
  std::unique_ptr<Trainer> trainer_;
  TrainingState state_;
  StepResult last_;
  double loss_since_checkpoint_ = 0;  // mean over the steps since the last checkpoint
  int64_t steps_since_checkpoint_ = 0;
  double tokens_per_second_ = 0, seconds_per_step_ = 0;  // smoothed
  int64_t evaluated_step_ = -1, saved_step_ = -1;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_RUN_H_
