#include "server/tuning/run.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "server/model/torch_target.h"
#include "server/tuning/pass_loss.h"
#include "server/tuning/reference.h"
#include "server/tuning/teacher.h"

namespace attune {
namespace {

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

// An average that forgets: the first value counts in full.
void Smooth(double value, double* average) { *average = *average == 0 ? value : 0.8 * *average + 0.2 * value; }

}  // namespace

TuningRun::TuningRun(const TuningRunnerDeps& deps, JointPasses* joint, const Job& job, JobControl& control,
                     PlannedRun plan)
    : deps_(deps), joint_(joint), job_(job), control_(control), plan_(std::move(plan)), energy_(deps.energy), memory_(deps.target) {}

std::string TuningRun::CheckpointPath(int64_t step) const {
  return absl::StrCat(deps_.checkpoint_directory, "/", job_.spec.id, "/", step);
}

absl::StatusOr<JobOutcome> TuningRun::Run() {
  const Hyperparameters& h = plan_.hyperparameters;
  const MemoryMeter::Scope scope(memory_);
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    // A prefix begins with a pass of the base model.
    const Arbiter::Turn turn =
        deps_.arbiter ? deps_.arbiter->Acquire(WorkClass::kTraining, Sharing::kAlone) : Arbiter::Turn();
    ATTUNE_ASSIGN_OR_RETURN(method_, MakeMethod(plan_.method, plan_.model->base, *h.seed));
    if (plan_.put_start_values) ATTUNE_RETURN_IF_ERROR(plan_.put_start_values(method_.get()));
    plan_.put_start_values = nullptr;  // and what it holds
    Synchronize(plan_.model->base->target);
    return absl::OkStatus();
  }));
  train_ = std::make_unique<Batcher>(&plan_.data.train, h.batch_size, h.micro_batch_tokens, plan_.virtual_tokens,
                                     *h.seed, plan_.data.group_size);
  if (!plan_.data.validation.empty()) {
    // No larger than the batches that the job was admitted with.
    validation_ = std::make_unique<Batcher>(&plan_.data.validation, h.batch_size,
                                            std::min(h.micro_batch_tokens, train_->MaxTokens()),
                                            plan_.virtual_tokens, *h.seed, plan_.data.group_size);
  }
  const int64_t activation_bytes =
      ActivationBudgetWithin(job_.memory_bytes - QuantizedWeightBytes(deps_, plan_), plan_.model->base->config,
                             MemoryInputsOf(deps_, plan_, job_.spec));
  const bool may_share = !job_.spec.dpo && !job_.spec.distillation;
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&] {
    trainer_ = std::make_unique<Trainer>(plan_.model->base.get(), method_.get(), train_.get(), h, deps_.arbiter,
                                         activation_bytes, may_share ? joint_ : nullptr, PassOptionsOf(job_.spec));
    return absl::OkStatus();
  }));
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(absl::StrCat(deps_.checkpoint_directory, "/", job_.spec.id)));
  // References before an earlier run's checkpoint takes the start values' place.
  absl::Status scored = job_.spec.dpo ? ScoreReferences() : absl::OkStatus();
  if (job_.spec.distillation) scored = AskTeacher();
  if (absl::IsCancelled(scored)) return JobOutcome{};
  ATTUNE_RETURN_IF_ERROR(scored);
  ATTUNE_RETURN_IF_ERROR(Restore());
  state_.base_model = job_.spec.base_model;
  state_.method = plan_.method;
  ATTUNE_RETURN_IF_ERROR(control_.SetRunning(h, plan_.data.report));
  const absl::StatusOr<bool> finished = Train();
  AddEnergy(energy_.TakeAll());  // of a run that failed, too
  ATTUNE_RETURN_IF_ERROR(finished.status());
  if (*finished) return Publish();
  if (control_.stop_request() != StopRequest::kCancel) ATTUNE_RETURN_IF_ERROR(Checkpoint());
  return JobOutcome{};
}

absl::Status TuningRun::ScoreReferences() {
  const bool is_start = job_.spec.start_from.has_value();
  const at::ScalarType type = plan_.hyperparameters.precision == "bfloat16" ? at::kBFloat16 : at::kFloat;
  for (auto [batches, examples] : {std::pair(train_.get(), &plan_.data.train),
                                   std::pair(validation_.get(), &plan_.data.validation)}) {
    if (!batches) continue;
    const int64_t count = static_cast<int64_t>(examples->size());
    const auto stop = [this] { return Stopped(); };
    absl::StatusOr<std::vector<double>> scores =
        is_start ? trainer_->ScoreAnswers(*batches, count, stop)
                 : ScoreAnswersOfBase(*plan_.model->base, type, *batches, count, deps_.arbiter, stop);
    ATTUNE_RETURN_IF_ERROR(scores.status());
    for (int64_t i = 0; i < count; ++i) (*examples)[i].reference_log_probability = (*scores)[i];
  }
  return absl::OkStatus();
}

absl::Status TuningRun::AskTeacher() {
  const std::shared_ptr<const ServedModel> teacher = std::move(plan_.teacher);
  for (std::vector<Example>* examples : {&plan_.data.train, &plan_.data.validation}) {
    ATTUNE_RETURN_IF_ERROR(ScoreTeacher(*teacher, *job_.spec.distillation, deps_.arbiter, [this] { return Stopped(); },
                                        examples));
  }
  return absl::OkStatus();
}

absl::Status TuningRun::Restore() {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<struct Checkpoint> saved, control_.checkpoints());
  for (const struct Checkpoint& checkpoint : saved) {
    absl::StatusOr<TrainingState> state =
        LoadCheckpoint(CheckpointPath(checkpoint.step), method_.get(), &trainer_->optimizer());
    if (state.ok()) {
      state_ = *state;
      saved_step_ = state_.step;
      evaluated_step_ = state_.best_step == state_.step ? state_.step : -1;
      return control_.Log(absl::StrCat("resumed from the checkpoint of step ", state_.step));
    }
    ATTUNE_RETURN_IF_ERROR(control_.Log(absl::StrCat("passed over a checkpoint: ", state.status().message())));
  }
  if (!job_.spec.start_from) return absl::OkStatus();
  const StartPoint& start = *job_.spec.start_from;
  return control_.Log(absl::StrCat("starts from the values of ",
                                   start.model.empty() ? absl::StrCat("tuningJobs/", start.job, "/checkpoints/", start.step)
                                                       : absl::StrCat("models/", start.model)));
}

bool TuningRun::ShouldStopEarly() const {
  const int32_t patience = plan_.hyperparameters.early_stopping_patience;
  return patience > 0 && state_.evaluations_since_best >= patience;
}

absl::StatusOr<bool> TuningRun::Train() {
  const Hyperparameters& h = plan_.hyperparameters;
  while (state_.step < h.max_steps && !ShouldStopEarly()) {
    if (Stopped()) return false;
    ATTUNE_RETURN_IF_ERROR(TakeStep());
    const bool last = state_.step == h.max_steps;
    const bool evaluates = validation_ && (last || (h.evaluation_steps > 0 && state_.step % h.evaluation_steps == 0));
    if (evaluates) {
      absl::Status status = EvaluateNow();
      // An evaluation that a stop cut short is made up after resuming.
      if (absl::IsCancelled(status)) return false;
      ATTUNE_RETURN_IF_ERROR(status);
    }
    const bool keeps = evaluates && *h.keep_best && state_.best_step == state_.step;
    if (keeps || last || state_.step % h.checkpoint_steps == 0) ATTUNE_RETURN_IF_ERROR(Checkpoint());
  }
  if (ShouldStopEarly()) {
    ATTUNE_RETURN_IF_ERROR(control_.Log(absl::StrFormat(
        "stopped early: no better validation loss than %.4f (step %d) in the last %d evaluations",
        state_.best_validation_loss, state_.best_step, state_.evaluations_since_best)));
  }
  return true;
}

void TuningRun::AddEnergy(std::optional<double> joules) {
  if (joules) control_.AddEnergy(*joules);
}

absl::Status TuningRun::TakeStep() {
  const auto start = SteadyClock::now();
  energy_.Enter();
  ATTUNE_ASSIGN_OR_RETURN(last_, trainer_->Step(state_.step));
  energy_.Leave();
  const double seconds = SecondsSince(start);
  memory_.CountBeside(trainer_->joint_bytes());
  ++state_.step;
  state_.trained_tokens += last_.tokens;
  loss_since_checkpoint_ += (last_.loss - loss_since_checkpoint_) / ++steps_since_checkpoint_;
  Smooth(last_.tokens / seconds, &tokens_per_second_);
  Smooth(seconds, &seconds_per_step_);
  control_.AddTrainingSeconds(seconds);
  AddEnergy(energy_.Take());
  if (deps_.on_step) deps_.on_step(job_.spec.base_model, last_.tokens, seconds, last_.loss);
  return control_.ReportProgress(Progress());
}

absl::Status TuningRun::EvaluateNow() {
  const auto start = SteadyClock::now();
  energy_.Enter();
  absl::StatusOr<ValidationResult> evaluated = trainer_->Evaluate(*validation_, [&] { return Stopped(); });
  energy_.Leave();
  AddEnergy(energy_.Take());
  ATTUNE_ASSIGN_OR_RETURN(const ValidationResult result, std::move(evaluated));
  control_.AddTrainingSeconds(SecondsSince(start));
  state_.validation_loss = result.loss;
  state_.validation_token_accuracy = result.token_accuracy;
  state_.validation_reward_margin = result.reward_margin;
  state_.validation_preference_accuracy = result.preference_accuracy;
  if (state_.best_step < 0 || result.loss < state_.best_validation_loss) {
    state_.best_validation_loss = result.loss;
    state_.best_step = state_.step;
    state_.evaluations_since_best = 0;
  } else {
    ++state_.evaluations_since_best;
  }
  evaluated_step_ = state_.step;
  return control_.ReportEvaluation(Progress());
}

absl::Status TuningRun::Checkpoint() {
  if (saved_step_ == state_.step || state_.step == 0) return absl::OkStatus();
  const std::string path = CheckpointPath(state_.step);
  ATTUNE_RETURN_IF_ERROR(SaveCheckpoint(path, state_, *method_, &trainer_->optimizer()));
  struct Checkpoint checkpoint;
  checkpoint.step = state_.step;
  checkpoint.train_loss = loss_since_checkpoint_;
  if (evaluated_step_ == state_.step) {
    checkpoint.validation_loss = state_.validation_loss;
    checkpoint.validation_token_accuracy = state_.validation_token_accuracy;
  }
  checkpoint.size_bytes = SizeOnDisk(path);
  checkpoint.best = state_.best_step == state_.step;
  ATTUNE_RETURN_IF_ERROR(control_.ReportCheckpoint(checkpoint));
  saved_step_ = state_.step;
  loss_since_checkpoint_ = 0;
  steps_since_checkpoint_ = 0;
  return DropOldCheckpoints();
}

absl::Status TuningRun::DropOldCheckpoints() {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<struct Checkpoint> saved, control_.checkpoints());
  const int64_t best = *plan_.hyperparameters.keep_best ? state_.best_step : -1;
  // The newest and the best stay whatever the limit: one resumes, the other is published.
  int64_t kept = 0;
  for (const struct Checkpoint& checkpoint : saved) {
    if (checkpoint.step == best || kept < std::max(1, plan_.hyperparameters.max_checkpoints - (best >= 0 ? 1 : 0))) {
      kept += checkpoint.step != best;
      continue;
    }
    ATTUNE_RETURN_IF_ERROR(control_.RemoveCheckpoint(checkpoint.step));
    ATTUNE_RETURN_IF_ERROR(RemoveAll(CheckpointPath(checkpoint.step)));
  }
  return absl::OkStatus();
}

absl::StatusOr<JobOutcome> TuningRun::Publish() {
  const bool restores_best = *plan_.hyperparameters.keep_best && state_.best_step >= 0 && state_.best_step != state_.step;
  if (restores_best) {
    ATTUNE_RETURN_IF_ERROR(LoadParameters(CheckpointPath(state_.best_step), method_.get()));
    ATTUNE_RETURN_IF_ERROR(control_.Log(absl::StrFormat("publishing step %d, the best by validation loss (%.4f)",
                                                        state_.best_step, state_.best_validation_loss)));
  }
  ATTUNE_ASSIGN_OR_RETURN(std::string staging, deps_.registry->NewStagingDirectory());
  absl::Status saved = CatchTorch([&] { return method_->Save(staging, job_.spec.base_model); });
  absl::StatusOr<ModelInfo> info =
      saved.ok() ? deps_.registry->Publish(DescribeTunedModel(), staging) : absl::StatusOr<ModelInfo>(saved);
  if (!info.ok()) {
    RemoveAll(staging).IgnoreError();
    return info.status();
  }
  return JobOutcome{JobOutcome::Kind::kSucceeded, info->id};
}

ModelInfo TuningRun::DescribeTunedModel() const {
  ModelInfo info;
  info.id = job_.spec.tuned_model_id;
  info.display_name = job_.spec.display_name;
  info.kind = method_->kind();
  info.base_model = job_.spec.base_model;
  info.tuning_job = job_.spec.id;
  info.prompt_template = plan_.data.render.prompt_template;
  info.completion_template = plan_.data.render.completion_template;
  info.dataset_kind = plan_.data.render.kind;
  info.max_sequence_tokens = plan_.data.render.max_tokens;
  info.architecture = plan_.model->info.architecture;
  info.metrics["train_loss"] = last_.loss;
  if (state_.best_step >= 0) {
    info.metrics["validation_loss"] =
        *plan_.hyperparameters.keep_best ? state_.best_validation_loss : state_.validation_loss;
    if (job_.spec.dpo) {
      info.metrics["validation_reward_margin"] = state_.validation_reward_margin;
      info.metrics["validation_preference_accuracy"] = state_.validation_preference_accuracy;
    } else {
      info.metrics["validation_token_accuracy"] = state_.validation_token_accuracy;
    }
  }
  info.metrics["trained_tokens"] = static_cast<double>(state_.trained_tokens);
  info.metrics["steps"] = static_cast<double>(state_.step);
  info.metrics["trainable_parameters"] = static_cast<double>(plan_.trainable_parameters);
  return info;
}

JobProgress TuningRun::Progress() const {
  const Hyperparameters& h = plan_.hyperparameters;
  JobProgress progress;
  progress.step = state_.step;
  progress.total_steps = h.max_steps;
  progress.epoch = static_cast<double>(state_.step) / train_->steps_per_epoch();
  progress.train_loss = last_.loss;
  progress.validation_loss = state_.validation_loss;
  progress.best_validation_loss = state_.best_validation_loss;
  progress.validation_token_accuracy = state_.validation_token_accuracy;
  progress.trained_tokens = state_.trained_tokens;
  progress.tokens_per_second = tokens_per_second_;
  progress.learning_rate = last_.learning_rate;
  progress.gradient_norm = last_.gradient_norm;
  progress.reward_margin = last_.reward_margin;
  progress.preference_accuracy = last_.preference_accuracy;
  progress.validation_reward_margin = state_.validation_reward_margin;
  progress.validation_preference_accuracy = state_.validation_preference_accuracy;
  progress.eta_seconds = seconds_per_step_ > 0 ? seconds_per_step_ * (h.max_steps - state_.step) : -1;
  // An earlier run of the job may have taken more.
  progress.peak_memory_bytes =
      std::max(job_.progress.peak_memory_bytes, memory_.peak_bytes() + QuantizedWeightBytes(deps_, plan_));
  return progress;
}

}  // namespace attune
