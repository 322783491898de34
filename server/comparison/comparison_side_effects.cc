// The part of ComparisonRun that measures what tuning does besides.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "server/comparison/comparison_run.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/model_paraphrases.h"
#include "server/comparison/parts.h"
#include "server/comparison/text_measures.h"

namespace attune {
namespace {

constexpr int64_t kParaphrasedRows = 40, kTrainingSample = 300, kRetentionRows = 500;
constexpr size_t kCheckedRows = 8;

Measure Renamed(Measure measure, absl::string_view name) {
  measure.name = std::string(name);
  return measure;
}

}  // namespace

// Judged by labels where it has them, else as suits its answers' form.
absl::StatusOr<EvalTask> ComparisonRun::ReadRetention() const {
  EvalTask task;
  ATTUNE_ASSIGN_OR_RETURN(task.data, deps_.datasets->Get(now_.spec.retention_dataset));
  ATTUNE_ASSIGN_OR_RETURN(task.rows, deps_.datasets->ReadRows(task.data.id));
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<SplitRow> described, DescribeRows(task.data, task.rows));
  task.choices = ChoicesOf(described);
  task.uses_data_templates = true;
  task.tenant = now_.spec.tenant;
  if (now_.spec.max_answer_tokens > 0) task.max_answer_tokens = now_.spec.max_answer_tokens;
  if (task.choices.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(const std::vector<std::string> answers, AnswersOf(task.data, task.rows));
    ATTUNE_ASSIGN_OR_RETURN(AnswerScorer scorer, AnswerScorer::Create(MetricFor(answers), ""));
    task.scorer = std::make_shared<const AnswerScorer>(std::move(scorer));
  }
  if (static_cast<int64_t>(task.rows.size()) > kRetentionRows) {
    task.rows = TakeRows(task.rows, SampleRows(described, AllRows(task.rows.size()), kRetentionRows,
                                               static_cast<uint64_t>(seed())));
  }
  return task;
}

absl::Status ComparisonRun::CheckRetention() const {
  ATTUNE_ASSIGN_OR_RETURN(EvalTask task, ReadRetention());
  task.rows.resize(std::min(task.rows.size(), kCheckedRows));
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> base, deps_.acquire(now_.spec.base_model));
  return Ask(deps_.engine, std::move(base), task, "", go_on()).status();
}

absl::StatusOr<SideEffectTasks> ComparisonRun::PrepareSideEffects() const {
  SideEffectTasks tasks;
  ATTUNE_ASSIGN_OR_RETURN(tasks.base, deps_.acquire(now_.spec.base_model));
  ATTUNE_ASSIGN_OR_RETURN(tasks.base_probe, AnswerProbe(deps_.engine, tasks.base, go_on()));
  ATTUNE_ASSIGN_OR_RETURN(tasks.text, WriteOwnText(deps_.engine, tasks.base, go_on()));
  ATTUNE_ASSIGN_OR_RETURN(tasks.asked, ReadTask(TestName(), kParaphrasedRows));
  ATTUNE_ASSIGN_OR_RETURN(tasks.variants, MakeVariants(tasks.asked, kParaphrasedRows, static_cast<uint64_t>(seed())));
  const absl::Status reworded =
      AddModelParaphrases(deps_.engine, tasks.base, static_cast<uint64_t>(seed()), go_on(), &tasks.variants);
  if (absl::IsCancelled(reworded)) return reworded;
  if (!reworded.ok()) LogWarning("comparison.no_paraphrases", {{"why", std::string(reworded.message())}});
  tasks.variants.task.judge = nullptr;  // what counts is whether the answers are alike
  ATTUNE_ASSIGN_OR_RETURN(tasks.train_sample, ReadTask(PartName("train"), kTrainingSample));
  ATTUNE_ASSIGN_OR_RETURN(tasks.validation, ReadTask(ValidationName(), kTrainingSample));
  if (!now_.spec.retention_dataset.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(tasks.retention, ReadRetention());
    ATTUNE_ASSIGN_OR_RETURN(tasks.base_retention, Ask(deps_.engine, tasks.base, *tasks.retention, "", go_on()));
  }
  return tasks;
}

absl::Status ComparisonRun::MeasureForgetting(const SideEffectTasks& tasks, Contender* contender) const {
  if (!ChangesWeights(contender->kind)) {
    // The same weights: nothing is forgotten, and that is known without asking.
    contender->Set(ProbeAccuracyOf(tasks.base_probe));
    contender->Set(Figure(kForgetting, 0));
    contender->Set(Figure(kDivergence, 0));
    if (!tasks.retention) return absl::OkStatus();
    contender->Set(Renamed(QualityOf(tasks.base_retention), kRetention));
    contender->Set(Figure(kRetentionLoss, 0));
    return absl::OkStatus();
  }
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(*contender));
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<double> right, AnswerProbe(deps_.engine, model, go_on()));
  contender->Set(ProbeAccuracyOf(right));
  contender->Set(LossOf(kForgetting, tasks.base_probe, right));
  ATTUNE_ASSIGN_OR_RETURN(Measure divergence, DivergenceFrom(deps_.engine, tasks.text, model, go_on()));
  contender->Set(std::move(divergence));
  if (!tasks.retention) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(const Answers kept, Ask(deps_.engine, model, *tasks.retention, "", go_on()));
  contender->Set(Renamed(QualityOf(kept), kRetention));
  contender->Set(LossOf(kRetentionLoss, tasks.base_retention.scores, kept.scores));
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureSteadiness(const SideEffectTasks& tasks, Contender* contender) const {
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(*contender));
  const std::string& prompt = contender->prompt_template;
  if (!tasks.variants.group.empty() && now_.metric != QualityMetric::kLikelihood) {
    ATTUNE_ASSIGN_OR_RETURN(const Answers answers, Ask(deps_.engine, model, tasks.variants.task, prompt, go_on()));
    contender->Set(ConsistencyOf(tasks.variants, answers));
  }
  if (now_.metric != QualityMetric::kLikelihood) {
    ATTUNE_ASSIGN_OR_RETURN(Measure resampled, ResampledBy(deps_.engine, model, tasks.asked, prompt, go_on()));
    contender->Set(std::move(resampled));
  }
  if (ChangesWeights(contender->kind)) ATTUNE_RETURN_IF_ERROR(MeasureMemorized(tasks, model, contender));
  if (!IsTuned(contender->kind)) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(const Answers seen, Ask(deps_.engine, model, tasks.train_sample, prompt, go_on()));
  ATTUNE_ASSIGN_OR_RETURN(const Answers unseen, Ask(deps_.engine, model, tasks.validation, prompt, go_on()));
  contender->Set(OverfittingOf(QualityOf(seen), QualityOf(unseen)));
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureMemorized(const SideEffectTasks& tasks, std::shared_ptr<const ServedModel> model,
                                             Contender* contender) const {
  ATTUNE_ASSIGN_OR_RETURN(const Measure seen, RecitedBy(deps_.engine, model, tasks.train_sample, go_on()));
  if (seen.count == 0) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(const Measure unseen, RecitedBy(deps_.engine, model, tasks.validation, go_on()));
  if (unseen.count > 0) contender->Set(Renamed(OverfittingOf(seen, unseen), kMemorized));
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureSideEffects() {
  ATTUNE_RETURN_IF_ERROR(Report("what the base model can do besides"));
  ATTUNE_ASSIGN_OR_RETURN(const SideEffectTasks tasks, PrepareSideEffects());
  for (Contender& contender : now_.contenders) {
    if (contender.state != Contender::State::kMeasured && contender.state != Contender::State::kStopped) continue;
    const std::string key = absl::StrCat("side effects:", ContenderName(contender.kind));
    ATTUNE_ASSIGN_OR_RETURN(const std::string noted, deps_.store->GetNote(id_, key));
    if (!noted.empty()) continue;  // an earlier run measured them
    ATTUNE_RETURN_IF_ERROR(Report(absl::StrCat("side effects of ", ContenderName(contender.kind))));
    absl::Status measured = MeasureForgetting(tasks, &contender);
    if (measured.ok()) measured = MeasureSteadiness(tasks, &contender);
    if (absl::IsCancelled(measured)) return measured;
    // Its quality stands, and so do the others' figures.
    if (!measured.ok()) contender.note = absl::StrCat("side effects were not all measured: ", measured.message());
    ATTUNE_RETURN_IF_ERROR(Save());
    ATTUNE_RETURN_IF_ERROR(deps_.store->PutNote(id_, key, "yes"));
  }
  return absl::OkStatus();
}

}  // namespace attune
