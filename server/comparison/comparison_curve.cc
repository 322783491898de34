// The part of ComparisonRun that asks what fewer rows would have brought, and what more would bring.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/comparison/comparison_run.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/parts.h"
#include "server/comparison/trials.h"
#include "server/evaluation/measures/learning_curve.h"

namespace attune {
namespace {

constexpr int64_t kFewestRows = 8;
constexpr double kLeastError = 1e-3;  // where all resamples are alike
constexpr double kMore = 2;           // times the rows that there are

CurvePoint PointOf(int64_t examples, const Measure& quality) {
  return {static_cast<double>(examples), quality.value, std::max(kLeastError, (quality.upper - quality.lower) / 4)};
}

// Of the points that could be measured; nothing if they do not tell.
std::optional<Measure> Foresee(const Contender& contender, int64_t all_rows) {
  std::vector<CurvePoint> points;
  for (const CurveTrial& point : contender.curve) {
    if (point.trial.state == Trial::State::kDone) points.push_back(PointOf(point.examples, point.trial.validation));
  }
  points.push_back(PointOf(all_rows, contender.trials[contender.best_trial].validation));
  const absl::StatusOr<CurvePrediction> found =
      PredictQuality(points, kMore * static_cast<double>(all_rows), CurveOptions());
  if (!found.ok() || found->evidence != CurveEvidence::kEnough) return std::nullopt;
  return Measure{std::string(kTwiceTheData), found->quality, found->lower, found->upper, 0};
}

}  // namespace

absl::Status ComparisonRun::PlanCurves() {
  ATTUNE_ASSIGN_OR_RETURN(const DatasetInfo train, deps_.datasets->Get(PartName("train")));
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<Row> rows, deps_.datasets->ReadRows(train.id));
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<SplitRow> described, DescribeRows(train, rows));
  std::vector<int64_t> taken = AllRows(rows.size());
  const int64_t all = static_cast<int64_t>(rows.size());
  std::vector<CurveTrial> planned;
  int64_t rest = all;
  for (absl::string_view part : kCurveParts) {  // each is drawn from the one before
    rest /= 2;
    if (rest < kFewestRows) break;
    taken = SampleRows(described, taken, rest, static_cast<uint64_t>(seed()));
    ATTUNE_RETURN_IF_ERROR(StorePart(train, part, TakeRows(rows, taken)).status());
    planned.insert(planned.begin(), CurveTrial{static_cast<int64_t>(taken.size()), Trial()});
  }
  for (Contender& contender : now_.contenders) {
    // A hybrid's prompt was searched with all rows: its points would be too good.
    const bool has_curve = IsTuned(contender.kind) && contender.kind != ContenderKind::kHybrid;
    const bool is_open = contender.curve.empty() && contender.state == Contender::State::kSearching;
    if (!has_curve || !is_open || contender.best_trial < 0) continue;
    contender.curve = planned;
    for (CurveTrial& point : contender.curve) {
      const Trial& best = contender.trials[contender.best_trial];
      point.trial.settings = best.settings;
      point.trial.rate_multiplier = best.rate_multiplier;
      point.trial.size_multiplier = best.size_multiplier;
    }
  }
  return Save();
}

absl::Status ComparisonRun::MeasureCurves() {
  ATTUNE_RETURN_IF_ERROR(PlanCurves());
  for (Contender& contender : now_.contenders) {  // all are queued together, as trials are
    for (size_t i = 0; i < contender.curve.size(); ++i) {
      Trial& trial = contender.curve[i].trial;
      if (trial.state != Trial::State::kPlanned) continue;
      const absl::string_view part = kCurveParts[contender.curve.size() - 1 - i];
      StartTrial(SpecOf(contender, trial, part, PartName(part)), &trial);
    }
  }
  ATTUNE_RETURN_IF_ERROR(Save());
  for (Contender& contender : now_.contenders) {
    for (CurveTrial& point : contender.curve) {
      if (point.trial.state != Trial::State::kRunning) continue;
      ATTUNE_RETURN_IF_ERROR(
          Report(absl::StrCat("learning curve of ", ContenderName(contender.kind), ": ", point.examples, " rows")));
      ATTUNE_RETURN_IF_ERROR(AwaitTrial(&point.trial));
      DropModel(&point.trial);  // at once: whole weights would leave no room for the next job
      ATTUNE_RETURN_IF_ERROR(Save());
    }
    if (contender.curve.empty()) continue;
    if (std::optional<Measure> foreseen = Foresee(contender, now_.train_examples)) contender.Set(*std::move(foreseen));
  }
  return Save();
}

void ComparisonRun::DropCurveModels() {
  for (Contender& contender : now_.contenders) {
    for (CurveTrial& point : contender.curve) DropModel(&point.trial);
  }
}

}  // namespace attune
