#include "server/evaluation/prompt_search/run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/error.h"
#include "common/file.h"
#include "server/adapters/publish_text_prompt.h"
#include "server/evaluation/prompt_search/input_embeddings.h"

namespace attune {
namespace {

constexpr int64_t kCheckpointCalls = 256;

const char* MetricName(TextPromptSpec::Metric metric) {
  switch (metric) {
    case TextPromptSpec::Metric::kLabelAccuracy:
      return "label accuracy";
    case TextPromptSpec::Metric::kExactMatch:
      return "exact match";
    case TextPromptSpec::Metric::kLoss:
      return "mean token probability";
    case TextPromptSpec::Metric::kUnspecified:
      break;
  }
  return "";
}

std::string Describe(const Proportion& score) {
  return absl::StrFormat("%.3f [%.3f, %.3f] on %d rows", score.value, score.lower, score.upper, score.count);
}

std::string DescribeExamples(size_t fixed, int64_t retrieved) {
  if (retrieved == 0) return absl::StrCat(fixed, " examples");
  return absl::StrCat(retrieved, " examples by similarity");
}

}  // namespace

PromptSearchRun::PromptSearchRun(const PromptSearchDeps& deps, const Job& job, JobControl& control)
    : deps_(deps), job_(job), control_(control), settings_(ResolveSearch(job.spec)), energy_(deps.energy) {}

std::string PromptSearchRun::CheckpointPath(int64_t step) const {
  return absl::StrCat(deps_.checkpoint_directory, "/", job_.spec.id, "/", step);
}

absl::StatusOr<JobOutcome> PromptSearchRun::Run() {
  absl::Status prepared = Prepare();
  if (absl::IsCancelled(prepared)) return JobOutcome{};
  ATTUNE_RETURN_IF_ERROR(prepared);
  ATTUNE_RETURN_IF_ERROR(Restore());
  Hyperparameters resolved;
  resolved.seed = static_cast<int64_t>(settings_.seed);
  ATTUNE_RETURN_IF_ERROR(control_.SetRunning(resolved, data_.report));
  energy_.Enter();
  absl::StatusOr<SearchOutcome> outcome = Search();
  energy_.Leave();
  AddEnergy(energy_.TakeAll());
  // The engine cancels, too, and that is no stop.
  if (absl::IsCancelled(outcome.status()) && control_.stop_request() != StopRequest::kNone) {
    if (control_.stop_request() != StopRequest::kCancel) ATTUNE_RETURN_IF_ERROR(Checkpoint());
    return JobOutcome{};
  }
  ATTUNE_RETURN_IF_ERROR(outcome.status());
  return Publish(*outcome);
}

absl::StatusOr<SearchOutcome> PromptSearchRun::Search() {
  ATTUNE_ASSIGN_OR_RETURN(const std::string about_pool, AddPool(host_, &data_));
  if (!about_pool.empty()) ATTUNE_RETURN_IF_ERROR(control_.Log(about_pool));
  PromptSearch search(&host_, [this](const SearchRound& round) { return OnRound(round); });
  return search.Run();
}

absl::Status PromptSearchRun::Prepare() {
  ATTUNE_ASSIGN_OR_RETURN(model_, deps_.models(job_.spec.base_model));
  ATTUNE_ASSIGN_OR_RETURN(data_, PrepareSearch(*deps_.datasets, job_.spec, *model_,
                                               [this] { return control_.stop_request() != StopRequest::kNone; }));
  host_.engine = deps_.engine;
  host_.model = model_;
  host_.data = &data_;
  host_.settings = &settings_;
  host_.memo = &memo_;
  host_.tenant = job_.spec.tenant;
  host_.stop_request = [this] { return control_.stop_request(); };
  host_.on_call = [this] { return OnCall(); };
  return MakeDirectories(absl::StrCat(deps_.checkpoint_directory, "/", job_.spec.id));
}

absl::Status PromptSearchRun::Restore() {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<struct Checkpoint> saved, control_.checkpoints());
  for (const struct Checkpoint& checkpoint : saved) {
    absl::StatusOr<std::string> text = ReadFile(CheckpointPath(checkpoint.step) + "/search.json");
    absl::StatusOr<SearchMemo> memo = text.ok() ? SearchMemoFromJson(*text) : absl::StatusOr<SearchMemo>(text.status());
    if (memo.ok()) {
      memo_ = *std::move(memo);
      saved_calls_ = memo_.calls;
      reported_seconds_ = memo_.seconds;
      return control_.Log(absl::StrCat("resumed with ", memo_.calls, " calls of the model that need no repetition"));
    }
    ATTUNE_RETURN_IF_ERROR(control_.Log(absl::StrCat("passed over a checkpoint: ", memo.status().message())));
  }
  return absl::OkStatus();
}

absl::Status PromptSearchRun::OnCall() {
  control_.AddTrainingSeconds(memo_.seconds - std::exchange(reported_seconds_, memo_.seconds));
  AddEnergy(energy_.Take());
  if (memo_.calls - saved_calls_ >= kCheckpointCalls) ATTUNE_RETURN_IF_ERROR(Checkpoint());
  return control_.ReportProgress(Progress());
}

void PromptSearchRun::AddEnergy(std::optional<double> joules) {
  if (joules) control_.AddEnergy(*joules);
}

absl::Status PromptSearchRun::OnRound(const SearchRound& round) {
  score_ = round.score.value;
  ATTUNE_RETURN_IF_ERROR(control_.Log(
      absl::StrFormat("round %d of %d: %s %s after %d calls; best: %s, format %s%s, instruction \"%s\" (%s)",
                      round.round, settings_.rounds, MetricName(data_.metric), Describe(round.score), memo_.calls,
                      DescribeExamples(round.best.examples.size(), round.best.retrieved), round.best.format.name,
                      round.is_calibrated ? ", calibrated" : "", round.best.instruction, round.best.origin)));
  ATTUNE_RETURN_IF_ERROR(control_.ReportEvaluation(Progress()));
  return Checkpoint();
}

absl::Status PromptSearchRun::Checkpoint() {
  if (memo_.calls == saved_calls_) return absl::OkStatus();
  const std::string path = CheckpointPath(memo_.calls);
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(path));
  ATTUNE_RETURN_IF_ERROR(WriteFileDurably(path + "/search.json", SearchMemoToJson(memo_)));
  ATTUNE_RETURN_IF_ERROR(SyncPath(absl::StrCat(deps_.checkpoint_directory, "/", job_.spec.id)));
  struct Checkpoint checkpoint;
  checkpoint.step = memo_.calls;
  checkpoint.size_bytes = SizeOnDisk(path);
  ATTUNE_RETURN_IF_ERROR(control_.ReportCheckpoint(checkpoint));
  const int64_t before = std::exchange(saved_calls_, memo_.calls);
  if (before == 0) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(control_.RemoveCheckpoint(before));
  return RemoveAll(CheckpointPath(before));
}

absl::StatusOr<JobOutcome> PromptSearchRun::Publish(const SearchOutcome& outcome) {
  score_ = outcome.score.value;
  ATTUNE_RETURN_IF_ERROR(control_.Log(
      absl::StrFormat("publishing %s%s, instruction \"%s\": %s %s; without a prompt %s",
                      DescribeExamples(outcome.prompt.examples.size(), outcome.prompt.retrieved),
                      outcome.prompt.label_offsets.empty() ? "" : ", calibrated", outcome.prompt.instruction,
                      MetricName(data_.metric), Describe(outcome.score), Describe(outcome.baseline))));
  JobProgress progress = Progress();
  progress.total_steps = progress.step;  // no more will come
  progress.eta_seconds = 0;
  ATTUNE_RETURN_IF_ERROR(control_.ReportEvaluation(progress));
  ModelInfo info;
  info.id = job_.spec.tuned_model_id;
  info.display_name = job_.spec.display_name;
  info.base_model = job_.spec.base_model;
  info.tuning_job = job_.spec.id;
  info.max_sequence_tokens = outcome.max_tokens;
  info.metrics["validation_score"] = outcome.score.value;
  info.metrics["validation_score_lower"] = outcome.score.lower;
  info.metrics["validation_score_upper"] = outcome.score.upper;
  info.metrics["validation_rows"] = static_cast<double>(outcome.score.count);
  info.metrics["baseline_score"] = outcome.baseline.value;
  info.metrics["model_calls"] = static_cast<double>(memo_.calls);
  ATTUNE_ASSIGN_OR_RETURN(info, PublishTextPrompt(deps_.registry, std::move(info), outcome.prompt));
  return JobOutcome{JobOutcome::Kind::kSucceeded, info.id};
}

JobProgress PromptSearchRun::Progress() const {
  JobProgress progress;
  progress.step = memo_.calls;
  progress.total_steps = std::max(PlannedCalls(settings_, data_), memo_.calls);
  progress.trained_tokens = memo_.tokens;
  progress.validation_score = score_;
  if (memo_.seconds > 0) progress.tokens_per_second = static_cast<double>(memo_.tokens) / memo_.seconds;
  if (memo_.calls > 0) {
    progress.eta_seconds =
        memo_.seconds / static_cast<double>(memo_.calls) * static_cast<double>(progress.total_steps - progress.step);
  }
  return progress;
}

}  // namespace attune
