#include "server/advice/curve_probe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "server/comparison/parts.h"

namespace attune {
namespace {

constexpr int64_t kFewestRows = 32, kFewestSteps = 16, kMostSteps = 60, kMostPasses = 4;
constexpr int32_t kBatchSize = 8;
constexpr double kJobs = 3;
constexpr absl::Duration kPoll = absl::Milliseconds(200);
constexpr int kPage = 1000;
constexpr char kLabel[] = "advice", kIdPrefix[] = "advice-";

// A job of a curve with its dataset and model. A running job is stopped first; models go before the jobs that made them.
void Remove(const CurveDeps& deps, const std::string& id) {
  const absl::StatusOr<Job> job = deps.jobs->Get(id);
  if (job.ok() && !IsFinal(job->state)) {
    deps.jobs->Cancel(id, "").IgnoreError();
    while (true) {
      const auto events = deps.jobs->WaitForEvents(id, std::numeric_limits<int64_t>::max(), absl::Now() + kPoll);
      if (!events.ok() || events->ended) break;
    }
  }
  for (const absl::Status& status : {deps.delete_model(id), deps.jobs->Delete(id, ""), deps.datasets->Delete(id)}) {
    if (!status.ok() && !absl::IsNotFound(status))
      LogWarning("advice.left_over", {{"id", id}, {"why", std::string(status.message())}});
  }
}

// Ids of those that an advice has made, page by page. `list` is a store's List.
template <typename List, typename IdOf>
void CollectMade(const List& list, const IdOf& id_of, std::set<std::string>* ids) {
  int64_t before = std::numeric_limits<int64_t>::max();
  while (true) {
    const auto page = list(kPage, before);
    if (!page.ok() || page->empty()) return;
    for (const auto& item : *page) {
      const auto& [id, labels] = id_of(item);
      const auto made_by = labels.find(kLabel);
      // A user's own may carry the label, too.
      const bool is_ours = made_by != labels.end() && absl::StartsWith(made_by->second, kIdPrefix) &&
                           absl::StartsWith(id, absl::StrCat(made_by->second, "-"));
      if (is_ours) ids->insert(id);
      before = item.position;
    }
  }
}

// One job of the curve, with all that it leaves behind.
class CurveJob {
 public:
  CurveJob(const CurveDeps& deps, const CurveRequest& request, int64_t size, const GoOn& go_on)
      : deps_(deps), request_(request), size_(size), go_on_(go_on), id_(absl::StrCat(request.id, "-", size)) {}
  ~CurveJob() { Remove(deps_, id_); }  // whatever the run came to

  // Nothing if it did not end in time; an error if it ended without a model.
  absl::StatusOr<std::optional<CurvePoint>> Run() {
    ATTUNE_RETURN_IF_ERROR(Store());
    JobSpec spec = request_.job;
    spec.id = spec.tuned_model_id = spec.dataset = id_;
    spec.display_name = "learning curve of advice";
    spec.method = LoraSpec();
    spec.hyperparameters.max_steps = request_.plan.steps;
    spec.hyperparameters.batch_size = kBatchSize;
    spec.hyperparameters.evaluation_steps = -1;
    spec.labels = {{kLabel, request_.id}};
    ATTUNE_RETURN_IF_ERROR(deps_.jobs->Create(spec, "").status());
    ATTUNE_ASSIGN_OR_RETURN(bool ended, Await(request_.deadline));
    if (!ended) return std::optional<CurvePoint>();
    ATTUNE_ASSIGN_OR_RETURN(Job job, deps_.jobs->Get(id_));
    if (job.state != JobState::kSucceeded) {
      return absl::FailedPreconditionError(absl::StrCat(
          "a short LoRA job is ", JobStateName(job.state), job.error ? absl::StrCat(": ", job.error->message) : ""));
    }
    return Measured(job.tuned_model);
  }

 private:
  absl::Status Store() {
    DatasetStore::UploadOptions options;
    options.info.id = id_;
    options.info.display_name = absl::StrCat("part of ", request_.data.id, " for a learning curve");
    options.info.labels = {{kLabel, request_.id}};
    const std::vector<Row> rows(request_.rows.begin(), request_.rows.begin() + size_);
    return StoreRows(deps_.datasets, request_.data, std::move(options), rows).status();
  }

  // Whether the job has ended by then.
  absl::StatusOr<bool> Await(absl::Time deadline) {
    while (true) {
      ATTUNE_ASSIGN_OR_RETURN(JobManager::EventBatch events,
                              deps_.jobs->WaitForEvents(id_, std::numeric_limits<int64_t>::max(), absl::Now() + kPoll,
                                                        [&] { return !go_on_(0, 1); }));
      if (events.ended) return true;
      if (!go_on_(0, 1)) return absl::CancelledError("The advice was stopped.");
      if (absl::Now() >= deadline) return false;
    }
  }

  absl::StatusOr<std::optional<CurvePoint>> Measured(const std::string& model_id) {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.acquire(model_id));
    ATTUNE_ASSIGN_OR_RETURN(Answers answers, Ask(deps_.engine, std::move(model), request_.asked, "", go_on_));
    const Measure quality = QualityOf(answers);
    return std::optional<CurvePoint>({static_cast<double>(size_), quality.value, (quality.upper - quality.lower) / 4});
  }

  const CurveDeps& deps_;
  const CurveRequest& request_;
  const int64_t size_;
  const GoOn& go_on_;
  const std::string id_;
};

}  // namespace

CurvePlan PlanCurve(int64_t rows, double seconds_per_row, double other_seconds, double seconds) {
  const auto takes = [&](int64_t steps) {
    return kJobs * (other_seconds + static_cast<double>(steps * kBatchSize) * seconds_per_row);
  };
  CurvePlan plan;
  // As often as a usual job would read few rows.
  plan.steps = std::clamp(kMostPasses * rows / kBatchSize, kFewestSteps, kMostSteps);
  while (plan.steps > kFewestSteps && takes(plan.steps) > seconds) --plan.steps;
  plan.seconds = takes(plan.steps);
  const int64_t most = std::min(rows, plan.steps * kBatchSize);
  if (plan.seconds <= seconds && most >= kFewestRows) plan.sizes = {most / 4, most / 2, most};
  return plan;
}

absl::StatusOr<std::vector<CurvePoint>> ProbeCurve(const CurveDeps& deps, const CurveRequest& request,
                                                   const GoOn& go_on) {
  std::vector<CurvePoint> points;
  for (int64_t size : request.plan.sizes) {
    if (absl::Now() >= request.deadline) break;
    CurveJob job(deps, request, size, go_on);
    const absl::StatusOr<std::optional<CurvePoint>> point = job.Run();
    // What is measured already is not lost to a later job's error.
    if (!point.ok() && (points.empty() || absl::IsCancelled(point.status()))) return point.status();
    if (!point.ok()) LogWarning("advice.short_curve", {{"why", std::string(point.status().message())}});
    if (!point.ok() || !*point) break;
    points.push_back(**point);
  }
  return points;
}

void RemoveLeftOvers(const CurveDeps& deps) {
  std::set<std::string> ids;
  CollectMade([&](int limit, int64_t before) { return deps.jobs->List(limit, before, {}); },
              [](const Job& job) { return std::pair(job.spec.id, job.spec.labels); }, &ids);
  CollectMade([&](int limit, int64_t before) { return deps.datasets->List(limit, before); },
              [](const DatasetInfo& info) { return std::pair(info.id, info.labels); }, &ids);
  for (const std::string& id : ids) Remove(deps, id);
}

std::vector<Finding> FindingsOf(const std::vector<CurvePoint>& points, int64_t rows) {
  if (points.empty()) return {};
  std::vector<std::string> seen;
  for (const CurvePoint& point : points)
    seen.push_back(absl::StrFormat("%.2f with %.0f rows", point.quality, point.examples));
  Finding finding{std::string(kLearningCurve),
                  points.back().quality,
                  points.back().quality,
                  points.back().quality,
                  static_cast<int64_t>(points.size()),
                  absl::StrCat("Short LoRA jobs reached ", absl::StrJoin(seen, ", "))};
  const absl::StatusOr<CurvePrediction> end = PredictQuality(points, static_cast<double>(rows), CurveOptions());
  if (end.ok()) {
    finding.value = end->quality;
    finding.lower = end->lower;
    finding.upper = end->upper;
    absl::StrAppendFormat(&finding.text, "; the curve leads to %.2f (%.2f to %.2f) with all %d", end->quality,
                          end->lower, end->upper, rows);
    if (end->evidence != CurveEvidence::kEnough)
      absl::StrAppend(&finding.text, ", which so few points do not make sure");
  }
  absl::StrAppend(&finding.text, ". The jobs were short: longer ones only help.");
  return {finding};
}

}  // namespace attune
