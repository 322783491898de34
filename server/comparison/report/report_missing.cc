#include "server/comparison/report/report_missing.h"

#include <algorithm>

#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_numbers.h"

namespace attune {
namespace {

bool IsSideEffect(absl::string_view m) {
  return m == kProbeAccuracy || m == kForgetting || m == kDivergence || m == kConsistency || m == kResampled || m == kOverfitting ||
         m == kRetention || m == kRetentionLoss || m == kMemorized;
}

bool IsOfText(absl::string_view m) {
  return m == kExactMatch || m == kTokenF1 || m == kRougeL || m == kChrf || m == kBleu || m == kJsonValid;
}

bool IsOfTraining(absl::string_view m) {
  return m == kTrainingSeconds || m == kSearchSeconds || m == kModelBytes || m == kPrice || m == kOverfitting ||
         m == kTrainingMemory || m == kTwiceTheData || m == kTrainingEnergy || m == kSearchEnergy;
}

}  // namespace

const Measure* FiniteMeasure(const Contender& contender, absl::string_view name) {
  const Measure* measure = contender.Find(name);
  return measure != nullptr && IsTellable(measure->value) ? measure : nullptr;
}

std::string WhyMissing(const Comparison& comparison, const Contender& contender, absl::string_view measure) {
  if (contender.state == Contender::State::kFailed) return "the method failed";
  if (contender.state == Contender::State::kWaiting) {
    return IsFinal(comparison.state) ? "the comparison ended before its turn" : "its turn has not come yet";
  }
  if (contender.state == Contender::State::kSearching) {
    return IsFinal(comparison.state) ? "the comparison ended during its search"
                                     : "its settings are still being searched";
  }
  if (measure == kPrice && comparison.spec.price_per_device_hour <= 0) return "no price of the device was given";
  if (!IsTuned(contender.kind) && IsOfTraining(measure)) return "nothing is trained";
  if (IsSideEffect(measure) && comparison.spec.skip_side_effects) return "side effects were left out on request";
  if ((measure == kRetention || measure == kRetentionLoss) && comparison.spec.retention_dataset.empty()) {
    return "no retention set was given";
  }
  if (measure == kTwiceTheData) {
    if (!comparison.spec.learning_curve) return "no learning curve was asked for";
    return contender.curve.empty() ? "it has no learning curve" : "the learning curve does not tell";
  }
  if (measure == kTrainingEnergy || measure == kSearchEnergy) return "the device does not tell";
  if ((measure == kConsistency || measure == kResampled) && comparison.metric == QualityMetric::kLikelihood) return "nothing is answered";
  if (measure == kMemorized) {
    return ChangesWeights(contender.kind) ? "the answers are too short to tell" : "the model itself is not changed";
  }
  if (IsOfText(measure) && !comparison.choices.empty()) return "the answers are chosen among labels";
  if (measure == kJsonValid) return "the expected answers are no JSON";
  if (measure == kPatternMatch) return "no pattern was given";
  if (!ChangesWeights(contender.kind) && (measure == kForgetting || measure == kDivergence)) {
    return "the model itself is not changed";
  }
  if ((measure == kMacroF1 || measure == kCalibrationError) && comparison.choices.empty()) {
    return "the answers are free text, without a list of choices";
  }
  return "it was not measured";
}

bool IsMeasured(const Comparison& comparison, absl::string_view measure) {
  return std::any_of(comparison.contenders.begin(), comparison.contenders.end(),
                     [&](const Contender& contender) { return FiniteMeasure(contender, measure) != nullptr; });
}

}  // namespace attune
