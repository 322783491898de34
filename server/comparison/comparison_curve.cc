// The part of ComparisonRun that asks what fewer rows would have brought, and what more would bring.
#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "server/comparison/comparison_run.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/parts.h"
#include "server/comparison/trials.h"
#include "server/evaluation/measures/learning_curve.h"

namespace attune {
namespace {

struct Fraction {
  int64_t divisor;
  absl::string_view part;  // of the dataset's and the jobs' names
};
// From most rows to fewest: each is drawn from the one before.
constexpr std::array<Fraction, 3> kFractions = {{{2, "half"}, {4, "quarter"}, {8, "eighth"}}};
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
  for (const Fraction& fraction : kFractions) {
    if (all / fraction.divisor < kFewestRows) break;
    taken = SampleRows(described, taken, all / fraction.divisor, static_cast<uint64_t>(seed()));
    ATTUNE_RETURN_IF_ERROR(StorePart(train, fraction.part, TakeRows(rows, taken)).status());
    planned.insert(planned.begin(), CurveTrial{static_cast<int64_t>(taken.size()), Trial()});
  }
  for (Contender& contender : now_.contenders) {
    const bool is_open = IsTuned(contender.kind) && contender.curve.empty() && contender.state == Contender::State::kSearching;
    if (!is_open || contender.best_trial < 0) continue;
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
      const absl::string_view part = kFractions[contender.curve.size() - 1 - i].part;
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
      ATTUNE_RETURN_IF_ERROR(Save());
    }
    if (contender.curve.empty()) continue;
    if (std::optional<Measure> foreseen = Foresee(contender, now_.train_examples)) contender.Set(*std::move(foreseen));
  }
  DropCurveModels();
  return Save();
}

void ComparisonRun::DropCurveModels() {
  for (Contender& contender : now_.contenders) {
    for (CurveTrial& point : contender.curve) {
      if (point.trial.model.empty()) continue;
      const absl::Status dropped = deps_.delete_model(point.trial.model);
      if (!dropped.ok() && !absl::IsNotFound(dropped)) {
        LogInfo("comparison.model_stays", {{"model", point.trial.model}, {"why", std::string(dropped.message())}});
        continue;
      }
      point.trial.model.clear();
    }
  }
}

}  // namespace attune
