#include "server/comparison/comparison_run.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "common/log.h"
#include "server/comparison/judge.h"
#include "server/comparison/parts.h"
#include "server/comparison/split.h"
#include "server/comparison/text_measures.h"
#include "server/comparison/verdict.h"

namespace attune {
namespace {

constexpr int64_t kMostTest = 2000, kMostValidation = 500, kFewestValidation = 50;
constexpr int64_t kUsualTokens = 2048;  // of a tuning job's examples
constexpr absl::string_view kDecided = "decided";  // note: every figure is there
constexpr double kTestShare = 0.2, kValidationShare = 0.1;

absl::Status TooFewRows(int64_t rows) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_ENOUGH_DATA",
                   absl::StrCat("The data has ", rows, " rows, too few to train, validate and test on: give a test dataset, or "
                                                       "more rows."));
}

absl::Status RequireAnswers(const DatasetInfo& data) {
  if (data.kind != DatasetKind::kText) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_ANSWERS",
                   absl::StrCat("'datasets/", data.id, "' is plain text, which has no answers that could be judged: take the "
                                                       "metric LIKELIHOOD, or give rows with prompts and completions."));
}

}  // namespace

ComparisonRun::ComparisonRun(const ComparisonDeps& deps, std::string id, std::function<bool()> should_stop,
                             std::function<void()> on_change)
    : deps_(deps), id_(std::move(id)), should_stop_(std::move(should_stop)), on_change_(std::move(on_change)) {}

absl::Status ComparisonRun::Run() {
  ATTUNE_ASSIGN_OR_RETURN(now_, deps_.store->Get(id_));
  if (IsFinal(now_.state)) return absl::CancelledError("The comparison has ended.");
  if (now_.state == ComparisonState::kQueued) {
    now_.state = ComparisonState::kRunning;
    now_.start_time = deps_.clock->Now();
  }
  ATTUNE_ASSIGN_OR_RETURN(const std::string decided, deps_.store->GetNote(id_, kDecided));
  if (decided.empty()) {
    ATTUNE_RETURN_IF_ERROR(Report("dividing the data"));
    ATTUNE_RETURN_IF_ERROR(ChoosePrefix());
    ATTUNE_RETURN_IF_ERROR(Prepare());
    ATTUNE_RETURN_IF_ERROR(Search());
    if (now_.spec.learning_curve) ATTUNE_RETURN_IF_ERROR(MeasureCurves());
    ATTUNE_RETURN_IF_ERROR(Test());
    // From here on models go, so that none of this can be done again.
    ATTUNE_RETURN_IF_ERROR(deps_.store->PutNote(id_, kDecided, "yes"));
  }
  ATTUNE_RETURN_IF_ERROR(DropLosers());
  now_.state = ComparisonState::kSucceeded;
  now_.end_time = deps_.clock->Now();
  return Report("done");
}

std::string ComparisonRun::PartName(absl::string_view part) const { return absl::StrCat(now_.prefix, "-", part); }

absl::Status ComparisonRun::ChoosePrefix() {
  if (!now_.prefix.empty()) return absl::OkStatus();  // an earlier run's
  now_.prefix = absl::StrCat("cmp-", id_);
  // What a deleted comparison of this name has left stays its own.
  if (IsPrefixTaken()) {
    absl::StrAppend(&now_.prefix, "-", absl::Hex(absl::ToUnixMicros(now_.create_time) & 0xffffff, absl::kZeroPad6));
  }
  return Save();
}

bool ComparisonRun::IsPrefixTaken() const {
  const auto has_part = [&](absl::string_view part) { return deps_.datasets->Get(PartName(part)).ok(); };
  const std::array<absl::string_view, 3> parts = {"train", "validation", "test"};
  const bool has_job = std::any_of(now_.contenders.begin(), now_.contenders.end(), [&](const Contender& contender) {
    const std::string first = JobName(contender.kind, "1");
    return deps_.jobs->Get(first).ok() || deps_.models->Get(first).ok();
  });
  return has_job || std::any_of(parts.begin(), parts.end(), has_part) ||
         std::any_of(std::begin(kCurveParts), std::end(kCurveParts), has_part);
}

std::string ComparisonRun::JobName(ContenderKind kind, absl::string_view suffix) const {
  return absl::StrCat(now_.prefix, "-", absl::StrReplaceAll(ContenderName(kind), {{"_", "-"}}), "-", suffix);
}

std::string ComparisonRun::TestName() const {
  return now_.spec.test_dataset.empty() ? PartName("test") : now_.spec.test_dataset;
}

std::string ComparisonRun::ValidationName() const {
  return now_.spec.validation_dataset.empty() ? PartName("validation") : now_.spec.validation_dataset;
}

absl::Status ComparisonRun::Report(const std::string& what) {
  now_.state_reason = what;
  return Save();
}

absl::Status ComparisonRun::Save() {
  const Comparison mine = now_;
  absl::StatusOr<Comparison> stored = deps_.store->Update(id_, [&](Comparison& comparison) {
    if (IsFinal(comparison.state)) return absl::CancelledError("The comparison has ended.");
    const int64_t version = comparison.version;
    const bool cancel_requested = comparison.cancel_requested;
    comparison = mine;
    comparison.version = version;
    comparison.cancel_requested = cancel_requested;
    return absl::OkStatus();
  });
  if (!stored.ok()) return stored.status();
  on_change_();
  const bool is_stopped = should_stop_() || stored->cancel_requested;
  return is_stopped && !IsFinal(now_.state) ? absl::CancelledError("The comparison was stopped.") : absl::OkStatus();
}

GoOn ComparisonRun::go_on() const {
  return [this](int64_t, int64_t) { return !should_stop_(); };
}

absl::StatusOr<DatasetInfo> ComparisonRun::StorePart(const DatasetInfo& source, absl::string_view part,
                                                     const std::vector<Row>& rows) {
  DatasetStore::UploadOptions options;
  options.info.id = PartName(part);
  options.info.display_name = absl::StrCat(part, " part of ", source.id);
  options.info.labels = {{"comparison", id_}};
  options.request_id = options.info.id;  // an earlier run's is found again
  return StoreRows(deps_.datasets, source, std::move(options), rows);
}

// At the beginning, while there is memory for it.
absl::Status ComparisonRun::LoadJudge() {
  const std::string& model = now_.spec.judge_model.empty() ? now_.spec.base_model : now_.spec.judge_model;
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> judge, deps_.acquire(model));
  judge_ = std::make_shared<const Judge>(Judge{std::move(judge), now_.spec.judge_prompt});
  return absl::OkStatus();
}

absl::Status ComparisonRun::ChooseMetric(const DatasetInfo& data, const std::vector<Row>& rows,
                                         const std::vector<SplitRow>& described) {
  now_.metric = now_.spec.metric;
  if (data.kind == DatasetKind::kText && now_.metric == QualityMetric::kAuto) now_.metric = QualityMetric::kLikelihood;
  if (now_.metric == QualityMetric::kLikelihood) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(RequireAnswers(data));
  now_.choices = ChoicesOf(described);
  if (now_.metric == QualityMetric::kAuto && !now_.choices.empty()) now_.metric = QualityMetric::kLabelAccuracy;
  if (now_.metric == QualityMetric::kAuto) {
    ATTUNE_ASSIGN_OR_RETURN(const std::vector<std::string> answers, AnswersOf(data, rows));
    now_.metric = MetricFor(answers);
  }
  if (now_.metric != QualityMetric::kLabelAccuracy) {
    now_.choices.clear();
    ATTUNE_ASSIGN_OR_RETURN(AnswerScorer scorer, AnswerScorer::Create(now_.metric, now_.spec.pattern));
    scorer_ = std::make_shared<const AnswerScorer>(std::move(scorer));
    return now_.metric == QualityMetric::kJudge ? LoadJudge() : absl::OkStatus();
  }
  if (!now_.choices.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_LABELS",
                   "The answers are no labels: there are fewer than 2 or more than 100 of them, or hardly two alike.");
}

absl::StatusOr<SplitSizes> ComparisonRun::PartSizes(int64_t rows) const {
  const double count = static_cast<double>(rows);
  const double test_share = now_.spec.test_fraction > 0 ? now_.spec.test_fraction : kTestShare;
  SplitSizes sizes;
  if (now_.spec.test_dataset.empty()) {
    sizes.test = std::min<int64_t>(most_test(), static_cast<int64_t>(count * test_share));
    if (sizes.test < 2) return TooFewRows(rows);
  }
  if (now_.spec.validation_dataset.empty()) {
    sizes.validation = std::min<int64_t>(kMostValidation, static_cast<int64_t>(count * kValidationShare));
    // Who trains on few of many rows wants it soon: choosing is not to take longer than training.
    const int64_t most_train = now_.spec.max_train_examples;
    if (most_train > 0) sizes.validation = std::min(sizes.validation, std::max(kFewestValidation, most_train / 2));
  }
  if (sizes.test + sizes.validation + 2 > rows) return TooFewRows(rows);
  return sizes;
}

absl::Status ComparisonRun::CheckWhatIsAsked(const DatasetInfo& data, const Row& row) const {
  if (!now_.spec.hand_prompt.empty() && data.kind == DatasetKind::kPromptCompletion) {
    ATTUNE_ASSIGN_OR_RETURN(PromptTemplate hand_prompt, PromptTemplate::Parse(now_.spec.hand_prompt));
    ATTUNE_RETURN_IF_ERROR(hand_prompt.Render(row.columns).status());
  }
  if (!now_.spec.retention_dataset.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(const DatasetInfo retention, deps_.datasets->Get(now_.spec.retention_dataset));
    ATTUNE_RETURN_IF_ERROR(RequireAnswers(retention));
    ATTUNE_RETURN_IF_ERROR(CheckRetention());
  }
  for (const std::string& other : {now_.spec.validation_dataset, now_.spec.test_dataset}) {
    if (other.empty()) continue;
    ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, deps_.datasets->Get(other));
    if (info.kind != data.kind) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "DATASETS_DIFFER",
                       absl::StrCat("'datasets/", other, "' holds rows of another kind than 'datasets/", data.id, "'."));
    }
    ATTUNE_ASSIGN_OR_RETURN(const EvalTask task, ReadTask(other, 0));
    ATTUNE_RETURN_IF_ERROR(DescribeRows(task.data, task.rows).status());
  }
  return absl::OkStatus();
}

absl::Status ComparisonRun::Prepare() {
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo data, deps_.datasets->Get(now_.spec.dataset));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, deps_.datasets->ReadRows(data.id));
  UseTemplates(now_.spec.data, &data);
  ATTUNE_ASSIGN_OR_RETURN(std::vector<SplitRow> described, DescribeRows(data, rows));
  ATTUNE_RETURN_IF_ERROR(ChooseMetric(data, rows, described));
  if (!rows.empty()) ATTUNE_RETURN_IF_ERROR(CheckWhatIsAsked(data, rows[0]));
  ATTUNE_ASSIGN_OR_RETURN(const SplitSizes sizes, PartSizes(static_cast<int64_t>(rows.size())));
  SplitParts parts = SplitRows(described, sizes, static_cast<uint64_t>(seed()));
  if (now_.spec.max_train_examples > 0) {
    parts.train = SampleRows(described, parts.train, now_.spec.max_train_examples, static_cast<uint64_t>(seed()));
  }
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo train, StorePart(data, "train", TakeRows(rows, parts.train)));
  now_.train_examples = train.row_count;
  if (now_.spec.validation_dataset.empty()) {
    if (parts.validation.empty()) return TooFewRows(static_cast<int64_t>(rows.size()));
    ATTUNE_ASSIGN_OR_RETURN(DatasetInfo part, StorePart(data, "validation", TakeRows(rows, parts.validation)));
    now_.validation_examples = part.row_count;
  }
  if (now_.spec.test_dataset.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(DatasetInfo part, StorePart(data, "test", TakeRows(rows, parts.test)));
    now_.test_examples = part.row_count;
  }
  return Save();
}

absl::StatusOr<EvalTask> ComparisonRun::ReadTask(const std::string& dataset, int64_t most) const {
  EvalTask task;
  ATTUNE_ASSIGN_OR_RETURN(task.data, deps_.datasets->Get(dataset));
  ATTUNE_ASSIGN_OR_RETURN(task.rows, deps_.datasets->ReadRows(dataset));
  UseTemplates(now_.spec.data, &task.data);
  task.choices = now_.choices;
  task.options = now_.spec.data;
  task.tenant = now_.spec.tenant;
  if (now_.spec.max_answer_tokens > 0) task.max_answer_tokens = now_.spec.max_answer_tokens;
  task.scorer = scorer_;
  task.by_likelihood = now_.metric == QualityMetric::kLikelihood;
  task.judge = judge_;
  if (task.options.max_sequence_tokens == 0) {  // the base model is cut where tuned ones are
    ATTUNE_ASSIGN_OR_RETURN(const ModelInfo base, deps_.models->Get(now_.spec.base_model));
    const int64_t context = base.architecture.context_tokens;
    task.options.max_sequence_tokens = static_cast<int32_t>(context > 0 ? std::min(kUsualTokens, context) : kUsualTokens);
  }
  if (most > 0 && static_cast<int64_t>(task.rows.size()) > most) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<SplitRow> described, DescribeRows(task.data, task.rows));
    task.rows = TakeRows(task.rows, SampleRows(described, AllRows(task.rows.size()), most, static_cast<uint64_t>(seed())));
  }
  return task;
}

int64_t ComparisonRun::most_test() const {
  return now_.spec.max_test_examples > 0 ? now_.spec.max_test_examples : kMostTest;
}

absl::StatusOr<EvalTask> ComparisonRun::TestTask() const {
  // A part of our own is as large as it should be already.
  return ReadTask(TestName(), now_.spec.test_dataset.empty() ? 0 : most_test());
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ComparisonRun::ModelOf(const Contender& contender) const {
  return deps_.acquire(contender.model);
}

bool ComparisonRun::DropModel(Trial* trial) {
  if (trial->model.empty()) return true;
  const absl::Status dropped = deps_.delete_model(trial->model);
  if (!dropped.ok() && !absl::IsNotFound(dropped)) {  // somebody uses it already, say through an alias
    LogInfo("comparison.model_stays", {{"model", trial->model}, {"why", std::string(dropped.message())}});
    return false;
  }
  trial->model.clear();
  return true;
}

absl::Status ComparisonRun::DropLosers() {
  DropCurveModels();
  if (now_.spec.keep_models) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(Report("dropping the models that lost"));
  for (size_t i = 0; i < now_.contenders.size(); ++i) {
    Contender& contender = now_.contenders[i];
    for (Trial& trial : contender.trials) {
      const bool is_kept = static_cast<int32_t>(i) == now_.winner && trial.model == contender.model;
      if (trial.model.empty() || is_kept) continue;
      const std::string model = trial.model;
      if (DropModel(&trial) && contender.model == model) contender.model.clear();
    }
  }
  return absl::OkStatus();
}

}  // namespace attune
