#include "server/comparison/comparison_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/comparison/parts.h"
#include "server/comparison/split.h"
#include "server/comparison/verdict.h"

namespace attune {
namespace {

constexpr int64_t kMostTest = 2000, kMostValidation = 500;
constexpr double kTestShare = 0.2, kValidationShare = 0.1;

std::vector<Row> Taken(const std::vector<Row>& rows, const std::vector<int64_t>& indices) {
  std::vector<Row> taken;
  for (int64_t i : indices) taken.push_back(rows[i]);
  return taken;
}

std::vector<int64_t> Indices(size_t count) {
  std::vector<int64_t> indices(count);
  for (size_t i = 0; i < count; ++i) indices[i] = static_cast<int64_t>(i);
  return indices;
}

absl::Status TooFewRows(int64_t rows) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_ENOUGH_DATA",
                   absl::StrCat("The data has ", rows, " rows, too few to train, validate and test on: give a test dataset, or "
                                                       "more rows."));
}

}  // namespace

ComparisonRun::ComparisonRun(const ComparisonDeps& deps, std::string id, std::function<bool()> should_stop,
                             std::function<void()> on_change)
    : deps_(deps), id_(std::move(id)), should_stop_(std::move(should_stop)), on_change_(std::move(on_change)) {}

absl::Status ComparisonRun::Run() {
  ATTUNE_ASSIGN_OR_RETURN(now_, deps_.store->Get(id_));
  if (now_.state == ComparisonState::kQueued) {
    now_.state = ComparisonState::kRunning;
    now_.start_time = deps_.clock->Now();
  }
  ATTUNE_RETURN_IF_ERROR(Report("dividing the data"));
  ATTUNE_RETURN_IF_ERROR(Prepare());
  ATTUNE_RETURN_IF_ERROR(Search());
  ATTUNE_RETURN_IF_ERROR(Test());
  ATTUNE_RETURN_IF_ERROR(DropLosers());
  now_.state = ComparisonState::kSucceeded;
  now_.end_time = deps_.clock->Now();
  return Report("done");
}

std::string ComparisonRun::PartName(absl::string_view part) const { return absl::StrCat("cmp-", id_, "-", part); }

absl::Status ComparisonRun::Report(const std::string& what) {
  now_.state_reason = what;
  return Save();
}

absl::Status ComparisonRun::Save() {
  const Comparison mine = now_;
  absl::StatusOr<Comparison> stored = deps_.store->Update(id_, [&](Comparison& comparison) {
    const int64_t version = comparison.version;
    const bool cancel_requested = comparison.cancel_requested;
    comparison = mine;
    comparison.version = version;
    comparison.cancel_requested = cancel_requested;
    return absl::OkStatus();
  });
  if (!stored.ok()) return stored.status();
  on_change_();
  return should_stop_() && !IsFinal(now_.state) ? absl::CancelledError("The comparison was stopped.") : absl::OkStatus();
}

GoOn ComparisonRun::go_on() const {
  return [this](int64_t, int64_t) { return !should_stop_(); };
}

absl::StatusOr<DatasetInfo> ComparisonRun::StorePart(const DatasetInfo& source, absl::string_view part,
                                                     const std::vector<Row>& rows) {
  DatasetStore::UploadOptions options;
  options.info.id = PartName(part);
  options.info.display_name = absl::StrCat(part, " part of ", source.id);
  options.info.prompt_template = source.prompt_template;
  options.info.completion_template = source.completion_template;
  options.info.format = DatasetFormat::kJsonl;
  options.info.labels = {{"comparison", id_}};
  options.request_id = PartName(part);  // an earlier run's is found again
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<DatasetStore::Upload> upload, deps_.datasets->BeginUpload(std::move(options)));
  ATTUNE_RETURN_IF_ERROR(upload->Append(RowsToJsonl(source, rows)));
  return upload->Commit();
}

void ComparisonRun::ChooseMetric(const std::vector<Row>& rows) {
  now_.metric = now_.spec.metric;
  if (now_.metric == QualityMetric::kAuto) {
    now_.metric = now_.choices.empty() ? QualityMetric::kExactMatch : QualityMetric::kLabelAccuracy;
  }
  if (now_.metric == QualityMetric::kExactMatch) now_.choices.clear();
}

absl::Status ComparisonRun::Prepare() {
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo data, deps_.datasets->Get(now_.spec.dataset));
  if (data.kind == DatasetKind::kText) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_ANSWERS",
                     "Plain text has no answers that could be compared; give rows with prompts and completions.");
  }
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, deps_.datasets->ReadRows(data.id));
  if (!now_.spec.data.completion_template.empty()) data.completion_template = now_.spec.data.completion_template;
  ATTUNE_ASSIGN_OR_RETURN(std::vector<SplitRow> described, DescribeRows(data, rows));
  now_.choices = ChoicesOf(described);
  ChooseMetric(rows);
  if (now_.metric == QualityMetric::kLabelAccuracy && now_.choices.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_LABELS",
                     "The answers are no labels: there are fewer than 2 or more than 100 of them, or hardly two alike.");
  }
  const double count = static_cast<double>(rows.size());
  const double test_share = now_.spec.test_fraction > 0 ? now_.spec.test_fraction : kTestShare;
  const int64_t most_test = now_.spec.max_test_examples > 0 ? now_.spec.max_test_examples : kMostTest;
  SplitSizes sizes;
  if (now_.spec.test_dataset.empty()) sizes.test = std::min<int64_t>(most_test, static_cast<int64_t>(count * test_share));
  if (now_.spec.validation_dataset.empty()) {
    sizes.validation = std::min<int64_t>(kMostValidation, static_cast<int64_t>(count * kValidationShare));
  }
  const bool lacks_test = now_.spec.test_dataset.empty() && sizes.test < 2;
  if (lacks_test || sizes.test + sizes.validation + 2 > static_cast<int64_t>(rows.size())) {
    return TooFewRows(static_cast<int64_t>(rows.size()));
  }
  SplitParts parts = SplitRows(described, sizes, static_cast<uint64_t>(seed()));
  if (now_.spec.max_train_examples > 0) {
    parts.train = SampleRows(described, parts.train, now_.spec.max_train_examples, static_cast<uint64_t>(seed()));
  }
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo train, StorePart(data, "train", Taken(rows, parts.train)));
  now_.train_examples = train.row_count;
  if (now_.spec.validation_dataset.empty()) {
    if (parts.validation.empty()) return TooFewRows(static_cast<int64_t>(rows.size()));
    ATTUNE_ASSIGN_OR_RETURN(DatasetInfo part, StorePart(data, "validation", Taken(rows, parts.validation)));
    now_.validation_examples = part.row_count;
  }
  if (now_.spec.test_dataset.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(DatasetInfo part, StorePart(data, "test", Taken(rows, parts.test)));
    now_.test_examples = part.row_count;
  }
  return Save();
}

absl::StatusOr<Task> ComparisonRun::ReadTask(const std::string& dataset, int64_t most) const {
  Task task;
  ATTUNE_ASSIGN_OR_RETURN(task.data, deps_.datasets->Get(dataset));
  ATTUNE_ASSIGN_OR_RETURN(task.rows, deps_.datasets->ReadRows(dataset));
  task.choices = now_.choices;
  task.options = now_.spec.data;
  if (most > 0 && static_cast<int64_t>(task.rows.size()) > most) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<SplitRow> described, DescribeRows(task.data, task.rows));
    task.rows = Taken(task.rows, SampleRows(described, Indices(task.rows.size()), most, static_cast<uint64_t>(seed())));
  }
  return task;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ComparisonRun::ModelOf(const Contender& contender) const {
  return deps_.acquire(contender.model);
}

absl::Status ComparisonRun::DropLosers() {
  if (now_.spec.keep_models) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(Report("dropping the models that lost"));
  for (size_t i = 0; i < now_.contenders.size(); ++i) {
    Contender& contender = now_.contenders[i];
    for (Trial& trial : contender.trials) {
      const bool is_kept = static_cast<int32_t>(i) == now_.winner && trial.model == contender.model;
      if (trial.model.empty() || is_kept) continue;
      const absl::Status dropped = deps_.delete_model(trial.model);
      if (absl::IsFailedPrecondition(dropped)) continue;  // somebody uses it already, say through an alias
      if (!dropped.ok() && !absl::IsNotFound(dropped)) return dropped;
      if (contender.model == trial.model) contender.model.clear();
      trial.model.clear();
    }
  }
  return absl::OkStatus();
}

}  // namespace attune
