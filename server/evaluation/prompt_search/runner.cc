#include "server/evaluation/prompt_search/runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/evaluation/prompt_search/run.h"

namespace attune {
namespace {

// Scores are the engine's memory; a search's own is its rows and their figures.
constexpr int64_t kSearchBytes = int64_t{1} << 20;
constexpr absl::Duration kLongestProbe = absl::Seconds(20);

absl::Status CheckBase(const ServedModel& model) {
  const ModelKind kind = model.info.kind;
  if (kind == ModelKind::kBase || kind == ModelKind::kFullWeights) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
                   absl::StrCat("models/", model.info.id,
                                " has no weights of its own; search over the model that it is "
                                "based on"));
}

// By the time of one call. 0 if the engine has no time for it now.
double EstimateSeconds(const PromptSearchDeps& deps, std::shared_ptr<const ServedModel> model, const SearchData& data,
                       int64_t calls) {
  absl::StatusOr<PreparedPrompt> prompt = PreparedPrompt::Make(*model, data, {"", data.formats[0], {}, ""});
  if (!prompt.ok()) return 0;
  absl::StatusOr<ScoreParams> params = prompt->ParamsFor(data.validation[0]);
  if (!params.ok()) return 0;
  params->model = std::move(model);
  params->deadline = absl::Now() + kLongestProbe;
  const double tokens = static_cast<double>(params->prompt.size());
  absl::StatusOr<ScoreResult> result = deps.engine->Score(*std::move(params));
  if (!result.ok()) return 0;
  const double seconds = result->timings.total_seconds - result->timings.queue_seconds;
  const double read = std::max(1.0, tokens - static_cast<double>(result->timings.cached_tokens));
  return seconds / read * static_cast<double>(data.row_tokens * calls);
}

class PromptSearchRunner final : public JobRunner {
 public:
  explicit PromptSearchRunner(PromptSearchDeps deps) : deps_(std::move(deps)) {}

  absl::StatusOr<JobOutcome> Run(const Job& job, JobControl& control) override {
    // A run that died after publishing has nothing left to do.
    absl::StatusOr<ModelInfo> published = deps_.registry->Get(job.spec.tuned_model_id);
    if (published.ok() && published->tuning_job == job.spec.id) {
      ATTUNE_RETURN_IF_ERROR(control.SetRunning(job.resolved_hyperparameters.value_or(job.spec.hyperparameters),
                                                job.data_report.value_or(DataReport())));
      return JobOutcome{JobOutcome::Kind::kSucceeded, published->id};
    }
    return PromptSearchRun(deps_, job, control).Run();
  }

  absl::StatusOr<JobEstimate> Estimate(const JobSpec& spec) override {
    if (!spec.tuned_model_id.empty() && deps_.registry->Get(spec.tuned_model_id).ok()) {
      return MakeError(
          absl::StatusCode::kAlreadyExists, "MODEL_EXISTS",
          absl::StrCat("there is a models/", spec.tuned_model_id, " already; choose another tuned_model_id"));
    }
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.models(spec.base_model));
    ATTUNE_RETURN_IF_ERROR(CheckBase(*model));
    ATTUNE_ASSIGN_OR_RETURN(SearchData data, PrepareSearch(*deps_.datasets, spec, *model, nullptr));
    const SearchSettings settings = ResolveSearch(spec);
    JobEstimate estimate;
    estimate.total_steps = PlannedCalls(settings, data);
    estimate.peak_memory_bytes = kSearchBytes;
    estimate.data_report = data.report;
    estimate.resolved_hyperparameters.seed = static_cast<int64_t>(settings.seed);
    estimate.duration_seconds = EstimateSeconds(deps_, std::move(model), data, estimate.total_steps);
    if (settings.max_seconds > 0) estimate.duration_seconds = std::min(estimate.duration_seconds, settings.max_seconds);
    return estimate;
  }

 private:
  const PromptSearchDeps deps_;
};

}  // namespace

std::unique_ptr<JobRunner> MakePromptSearchRunner(PromptSearchDeps deps) {
  return std::make_unique<PromptSearchRunner>(std::move(deps));
}

}  // namespace attune
