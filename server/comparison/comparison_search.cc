// The part of ComparisonRun that tries settings.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "server/comparison/comparison_run.h"
#include "server/comparison/trials.h"
#include "server/data/text_prompt.h"

namespace attune {
namespace {

constexpr int64_t kUsualTrials = 2;
constexpr absl::Duration kLongestWait = absl::Seconds(1);

}  // namespace

Measure ComparisonRun::Leader() const {
  Measure leader;
  for (const Contender& contender : now_.contenders) {
    const int32_t best = BestTrial(contender.trials);
    if (best < 0) continue;
    const Measure& found = contender.trials[best].validation;
    if (leader.count == 0 || found.value > leader.value) leader = found;
  }
  return leader;
}

absl::StatusOr<bool> ComparisonRun::PlanRound() {
  const Measure leader = Leader();
  const int64_t most = now_.spec.max_trials > 0 ? now_.spec.max_trials : kUsualTrials;
  bool has_work = false;
  for (Contender& contender : now_.contenders) {
    if (!IsTuned(contender.kind) || contender.state == Contender::State::kStopped) continue;
    const bool is_ended = contender.trials.empty() || contender.trials.back().state >= Trial::State::kDone;
    // A hybrid is trained in the template that the search has found.
    const Contender* searched = now_.FindContender(ContenderKind::kTextPrompt);
    if (contender.kind == ContenderKind::kHybrid && searched && BestTrial(searched->trials) < 0) {
      const bool is_open = searched->trials.empty() || searched->trials.back().state < Trial::State::kDone;
      if (!is_open) contender.note = "there is no searched text prompt to build on";
      continue;
    }
    if (is_ended) {
      const bool rate_is_given = now_.spec.hyperparameters.learning_rate > 0;
      const std::optional<TrialSettings> next = NextTrial(contender.kind, contender.trials, most, rate_is_given);
      if (!next) continue;
      if (IsHopeless(contender.trials, leader)) {
        contender.state = Contender::State::kStopped;
        contender.note = "no further settings tried: its validation figure is below the leader's interval";
        continue;
      }
      Trial trial;
      trial.rate_multiplier = next->rate;
      trial.size_multiplier = next->size;
      trial.settings = DescribeSettings(contender.kind, *next);
      contender.trials.push_back(std::move(trial));
      contender.state = Contender::State::kSearching;
    }
    has_work = true;
  }
  ATTUNE_RETURN_IF_ERROR(Save());
  return has_work;
}

absl::StatusOr<ModelInfo> ComparisonRun::SearchedPrompt() const {
  const Contender* searched = now_.FindContender(ContenderKind::kTextPrompt);
  if (!searched || searched->model.empty()) return absl::InternalError("a hybrid without a searched text prompt");
  return deps_.models->Get(searched->model);
}

absl::StatusOr<JobSpec> ComparisonRun::SpecOf(const Contender& contender, const Trial& trial, absl::string_view suffix,
                                              std::string dataset) const {
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo base, deps_.models->Get(now_.spec.base_model));
  JobSpec spec;
  spec.id = JobName(contender.kind, suffix);
  spec.display_name = absl::StrCat(ContenderName(contender.kind), " of comparison ", id_, ": ", trial.settings);
  spec.base_model = now_.spec.base_model;
  spec.dataset = std::move(dataset);
  spec.validation_dataset = ValidationName();
  spec.tuned_model_id = spec.id;
  spec.method = MethodFor(contender.kind, {trial.rate_multiplier, trial.size_multiplier}, base.architecture.layers);
  spec.hyperparameters = now_.spec.hyperparameters;
  const double multiplier = spec.hyperparameters.learning_rate_multiplier > 0
                                ? spec.hyperparameters.learning_rate_multiplier
                                : 1;
  spec.hyperparameters.learning_rate_multiplier = multiplier * trial.rate_multiplier;
  if (!spec.hyperparameters.seed) spec.hyperparameters.seed = seed();
  spec.data = now_.spec.data;
  if (contender.kind == ContenderKind::kTextPrompt) {
    // It has settings of its own, and its prompts' text is no part of a row's length.
    spec.hyperparameters = Hyperparameters();
    spec.hyperparameters.seed = seed();
  }
  if (contender.kind == ContenderKind::kHybrid) {
    ATTUNE_ASSIGN_OR_RETURN(const ModelInfo searched, SearchedPrompt());
    spec.data.prompt_template = searched.prompt_template;
    spec.data.completion_template = searched.completion_template;
    ATTUNE_ASSIGN_OR_RETURN(const TextPrompt prompt, ReadTextPrompt(deps_.models->Directory(searched.id)));
    // A limit that has room for retrieved examples would leave rows whole that all others cut: a hybrid has none.
    if (!prompt.pool) spec.data.max_sequence_tokens = static_cast<int32_t>(searched.max_sequence_tokens);
  }
  spec.tenant = now_.spec.tenant;
  spec.labels = {{"comparison", id_}};
  return spec;
}

void ComparisonRun::StartTrial(const absl::StatusOr<JobSpec>& spec, Trial* trial) {
  const absl::StatusOr<Job> job = spec.ok() ? deps_.jobs->Create(*spec, spec->id) : spec.status();
  trial->state = job.ok() ? Trial::State::kRunning : Trial::State::kFailed;
  if (job.ok()) trial->tuning_job = spec->id;
  if (!job.ok()) trial->error = std::string(job.status().message());
}

absl::Status ComparisonRun::RunTrials() {
  // All of a round are queued together: small jobs share the device.
  for (Contender& contender : now_.contenders) {
    for (size_t i = 0; i < contender.trials.size(); ++i) {
      Trial& trial = contender.trials[i];
      if (trial.state != Trial::State::kPlanned) continue;
      StartTrial(SpecOf(contender, trial, absl::StrCat(i + 1), PartName("train")), &trial);
    }
  }
  ATTUNE_RETURN_IF_ERROR(Save());
  for (Contender& contender : now_.contenders) {
    for (Trial& trial : contender.trials) {
      if (trial.state != Trial::State::kRunning) continue;
      ATTUNE_RETURN_IF_ERROR(Report(absl::StrCat("tuning ", ContenderName(contender.kind), ": ", trial.settings)));
      ATTUNE_RETURN_IF_ERROR(AwaitTrial(&trial));
      contender.best_trial = BestTrial(contender.trials);
      if (contender.best_trial >= 0) contender.model = contender.trials[contender.best_trial].model;
      if (trial.state == Trial::State::kFailed) contender.note = trial.error;
      ATTUNE_RETURN_IF_ERROR(Save());
    }
  }
  return absl::OkStatus();
}

absl::Status ComparisonRun::AwaitTrial(Trial* trial) {
  while (true) {
    absl::StatusOr<JobManager::EventBatch> events = deps_.jobs->WaitForEvents(
        trial->tuning_job, std::numeric_limits<int64_t>::max(), absl::Now() + kLongestWait, should_stop_);
    if (should_stop_()) return absl::CancelledError("The comparison was stopped.");
    if (absl::IsNotFound(events.status())) break;
    ATTUNE_RETURN_IF_ERROR(events.status());
    if (events->ended) break;
  }
  const absl::StatusOr<Job> found = deps_.jobs->Get(trial->tuning_job);
  if (absl::IsNotFound(found.status())) {
    trial->state = Trial::State::kFailed;
    trial->error = "its job was deleted";
    return absl::OkStatus();
  }
  ATTUNE_RETURN_IF_ERROR(found.status());
  const Job& job = *found;
  trial->device_seconds = job.training_seconds;
  trial->energy_joules = job.energy_joules;
  trial->memory_bytes = job.progress.peak_memory_bytes;
  if (job.state != JobState::kSucceeded) {
    trial->state = Trial::State::kFailed;
    trial->error = job.error ? job.error->message : absl::StrCat("the job is ", JobStateName(job.state));
    return absl::OkStatus();
  }
  trial->model = job.tuned_model;
  return MeasureTrial(trial);
}

absl::Status ComparisonRun::MeasureTrial(Trial* trial) {
  ATTUNE_ASSIGN_OR_RETURN(EvalTask task, ReadTask(ValidationName(), 0));
  const absl::StatusOr<std::shared_ptr<const ServedModel>> model = deps_.acquire(trial->model);
  const absl::StatusOr<Answers> answers =
      model.ok() ? Ask(deps_.engine, *model, task, "", go_on()) : absl::StatusOr<Answers>(model.status());
  if (absl::IsCancelled(answers.status())) return answers.status();
  if (!answers.ok()) {
    trial->state = Trial::State::kFailed;
    trial->error = std::string(answers.status().message());
    return absl::OkStatus();
  }
  trial->validation = QualityOf(*answers);
  trial->state = Trial::State::kDone;
  now_.validation_examples = static_cast<int64_t>(task.rows.size());
  return absl::OkStatus();
}

absl::Status ComparisonRun::Search() {
  while (true) {
    ATTUNE_ASSIGN_OR_RETURN(bool has_work, PlanRound());
    if (!has_work) break;
    ATTUNE_RETURN_IF_ERROR(RunTrials());
  }
  for (Contender& contender : now_.contenders) {
    if (!IsTuned(contender.kind)) {
      contender.model = now_.spec.base_model;
      if (contender.kind == ContenderKind::kHandPrompt) contender.prompt_template = now_.spec.hand_prompt;
    } else if (BestTrial(contender.trials) < 0) {
      contender.state = Contender::State::kFailed;
      if (contender.note.empty() && !contender.trials.empty()) contender.note = contender.trials[0].error;
    }
  }
  return Save();
}

}  // namespace attune
