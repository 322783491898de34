#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_CALIBRATION_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_CALIBRATION_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace attune {

// How sure a model was of the answer it gave, and whether that was right.
struct Judgement {
  double confidence = 0;  // 0 to 1
  bool correct = false;
};

struct CalibrationBin {
  int64_t count = 0;
  double confidence = 0, accuracy = 0;  // means; 0 of an empty bin
};

// Bins of equal width over confidence, each without its lower end, except that 0 is in the first.
// REQUIRES: bins >= 1, confidences in 0 to 1.
std::vector<CalibrationBin> CalibrationBins(absl::Span<const Judgement> judgements, int bins);

// Expected calibration error (Guo et al. 2017): the mean of |confidence - accuracy| over the bins,
// weighted by their counts. 0 (calibrated) to 1; 0 of nothing.
double ExpectedCalibrationError(absl::Span<const Judgement> judgements, int bins = 15);

// Mean squared difference of confidence and outcome (Brier 1950). 0 to 1; 0 of nothing.
double BrierScore(absl::Span<const Judgement> judgements);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_CALIBRATION_H_
