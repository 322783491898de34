#include "server/evaluation/measures/calibration.h"

#include <algorithm>
#include <cmath>

namespace attune {

std::vector<CalibrationBin> CalibrationBins(absl::Span<const Judgement> judgements, int bins) {
  std::vector<CalibrationBin> out(bins);
  for (const Judgement& judgement : judgements) {
    const int index = static_cast<int>(std::ceil(judgement.confidence * bins)) - 1;
    CalibrationBin& bin = out[std::clamp(index, 0, bins - 1)];
    ++bin.count;
    bin.confidence += judgement.confidence;
    bin.accuracy += judgement.correct;
  }
  for (CalibrationBin& bin : out) {
    if (bin.count == 0) continue;
    bin.confidence /= bin.count;
    bin.accuracy /= bin.count;
  }
  return out;
}

double ExpectedCalibrationError(absl::Span<const Judgement> judgements, int bins) {
  if (judgements.empty()) return 0;
  double sum = 0;
  for (const CalibrationBin& bin : CalibrationBins(judgements, bins)) {
    sum += bin.count * std::abs(bin.confidence - bin.accuracy);
  }
  return sum / judgements.size();
}

double BrierScore(absl::Span<const Judgement> judgements) {
  if (judgements.empty()) return 0;
  double sum = 0;
  for (const Judgement& judgement : judgements) {
    const double error = judgement.confidence - judgement.correct;
    sum += error * error;
  }
  return sum / judgements.size();
}

}  // namespace attune
