#ifndef ATTUNE_SERVER_COMPARISON_COMPARISON_RUN_H_
#define ATTUNE_SERVER_COMPARISON_COMPARISON_RUN_H_

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "server/adapters/registry.h"
#include "server/adapters/residency.h"
#include "server/comparison/answers.h"
#include "server/comparison/comparison.h"
#include "server/comparison/comparison_store.h"
#include "server/comparison/side_effects.h"
#include "server/comparison/split.h"
#include "server/data/dataset_store.h"
#include "server/engine/engine.h"
#include "server/jobs/manager.h"

namespace attune {

// What comparisons work with; all outlive them.
struct ComparisonDeps {
  ComparisonStore* store = nullptr;
  JobManager* jobs = nullptr;
  DatasetStore* datasets = nullptr;
  const ModelRegistry* models = nullptr;
  Engine* engine = nullptr;
  const Clock* clock = nullptr;
  std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)> acquire;
  std::function<absl::Status(absl::string_view id)> delete_model;
};

// Of a learning curve's parts, in their names: fewest rows last.
inline constexpr absl::string_view kCurveParts[] = {"half", "quarter", "eighth"};

// What side effects are measured with, the same for all contenders.
struct SideEffectTasks {
  std::shared_ptr<const ServedModel> base;
  std::vector<double> base_probe;  // AnswerProbe of the base model
  OwnText text;
  EvalTask asked;         // a few test rows, as they are
  Variants variants;  // and in other words
  EvalTask train_sample, validation;
  std::optional<EvalTask> retention;
  Answers base_retention;
};

// One comparison from the state that the store has to its end, or until it is told to stop. What is done is noted
// down step by step, so that a later run goes on where this one was. Not thread-safe, but for `should_stop`'s callers.
class ComparisonRun {
 public:
  // `should_stop`: the comparison was cancelled, or the server ends. `on_change` is called after every change of the
  // stored comparison.
  ComparisonRun(const ComparisonDeps& deps, std::string id, std::function<bool()> should_stop,
                std::function<void()> on_change);

  // OK: the comparison is SUCCEEDED. CANCELLED: it was told to stop. Else why it failed.
  absl::Status Run();

 private:
  // Of the names of what is made.
  absl::Status ChoosePrefix();
  bool IsPrefixTaken() const;
  std::string JobName(ContenderKind kind, absl::string_view suffix) const;
  // Splits the data and stores the parts as datasets; those of an earlier run are found again.
  absl::Status Prepare();
  absl::StatusOr<DatasetInfo> StorePart(const DatasetInfo& source, absl::string_view part, const std::vector<Row>& rows);
  // Before hours are spent: whether the hand prompt and the other datasets go with the data.
  absl::Status CheckWhatIsAsked(const DatasetInfo& data, const Row& row) const;
  // Errors: NO_LABELS, NO_ANSWERS.
  absl::Status ChooseMetric(const DatasetInfo& data, const std::vector<Row>& rows, const std::vector<SplitRow>& described);
  absl::Status LoadJudge();
  // Error: NOT_ENOUGH_DATA.
  absl::StatusOr<SplitSizes> PartSizes(int64_t rows) const;
  int64_t most_test() const;
  // The dataset's rows, a fair sample of `most` where there are more; 0: all.
  absl::StatusOr<EvalTask> ReadTask(const std::string& dataset, int64_t most) const;
  absl::StatusOr<EvalTask> TestTask() const;

  // Tries settings of every tuned method on the validation part, a round of all methods at a time.
  absl::Status Search();
  // Plans the next trial of each method that has one; whether there is any.
  absl::StatusOr<bool> PlanRound();
  absl::Status RunTrials();
  // A job on `dataset`; `suffix` tells it from the contender's others.
  absl::StatusOr<JobSpec> SpecOf(const Contender& contender, const Trial& trial, absl::string_view suffix,
                                 std::string dataset) const;
  // Queues the trial's job; a trial that cannot have one is FAILED.
  void StartTrial(const absl::StatusOr<JobSpec>& spec, Trial* trial);
  // The text prompt that was found.
  absl::StatusOr<ModelInfo> SearchedPrompt() const;
  // Until it is DONE, measured on the validation part, or FAILED.
  absl::Status AwaitTrial(Trial* trial);
  absl::Status MeasureTrial(Trial* trial);
  // The best validation figure of all.
  Measure Leader() const;

  // Trains every method's best setting on an eighth, a quarter and a half of the rows, too (comparison_curve.cc).
  absl::Status MeasureCurves();
  absl::Status PlanCurves();
  void DropCurveModels();

  // Asks every contender the test part, once.
  absl::Status Test();
  // All of them at once, so that the engine's batches hold all their adapters; what was noted down is not asked again. By
  // contender, none for those without a model. `task` must outlive the result.
  std::vector<std::future<absl::StatusOr<Answers>>> AskTestPart(const EvalTask& task) const;
  absl::Status TakeAnswers(std::future<absl::StatusOr<Answers>> asked, Contender* contender, Answers* answers);
  absl::Status MeasureQuality(const Answers& answers, Contender* contender) const;
  void MeasureEnergy(Contender* contender) const;
  absl::Status MeasureCost(const Answers& answers, Contender* contender);
  // comparison_side_effects.cc
  absl::StatusOr<EvalTask> ReadRetention() const;
  // Whether the base model can be asked it.
  absl::Status CheckRetention() const;
  absl::Status MeasureSideEffects();
  absl::StatusOr<SideEffectTasks> PrepareSideEffects() const;
  absl::Status MeasureForgetting(const SideEffectTasks& tasks, Contender* contender) const;
  absl::Status MeasureSteadiness(const SideEffectTasks& tasks, Contender* contender) const;
  absl::Status MeasureMemorized(const SideEffectTasks& tasks, std::shared_ptr<const ServedModel> model,
                                Contender* contender) const;
  void CollectDisagreements(const std::vector<Answers>& answers);
  absl::Status DropLosers();
  // False if it stays, since somebody needs it.
  bool DropModel(Trial* trial);

  absl::StatusOr<std::shared_ptr<const ServedModel>> ModelOf(const Contender& contender) const;
  std::string PartName(absl::string_view part) const;
  std::string TestName() const;
  std::string ValidationName() const;
  // Says what is being done, and stores all.
  absl::Status Report(const std::string& what);
  absl::Status Save();
  GoOn go_on() const;
  int64_t seed() const { return now_.spec.seed.value_or(42); }

  const ComparisonDeps deps_;
  const std::string id_;
  const std::function<bool()> should_stop_;
  const std::function<void()> on_change_;
  Comparison now_;
  std::shared_ptr<const AnswerScorer> scorer_;
  std::shared_ptr<const Judge> judge_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_COMPARISON_RUN_H_
