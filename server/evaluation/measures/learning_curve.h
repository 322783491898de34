#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_LEARNING_CURVE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_LEARNING_CURVE_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

// How quality grows with the number of training examples: quality(n) = limit - scale * n^-rate (Cortes et al. 1993;
// Hestness et al. 2017). Higher is better; of what falls, such as a loss, give the negative, with the bound 0.
namespace attune {

struct CurvePoint {
  double examples = 0;        // trained on; > 0
  double quality = 0;         // measured
  double standard_error = 0;  // of `quality`; > 0. Of a share, a quarter of its Wilson interval's width
};

struct LearningCurve {
  double limit = 0, scale = 0, rate = 0;

  double Quality(double examples) const;
};

// The least-squares fit, weighted by the standard errors, with rate in (0, 2], scale >= 0 and limit between the best
// quality seen and `bound` (infinity for none). INVALID_ARGUMENT (BAD_CURVE) for fewer than three numbers of
// examples, for values out of their ranges and for quality above the bound.
absl::StatusOr<LearningCurve> FitLearningCurve(absl::Span<const CurvePoint> points, double bound = 1);

enum class CurveEvidence {
  kEnough,
  kTooUncertain,  // not enough to tell: other curves fit as well and end elsewhere
  kPoorFit,       // not enough to tell: the points do not follow such a curve
  kTooFar,        // not enough to tell: beyond what points of these sizes can say
};

struct CurveOptions {
  double bound = 1;
  double confidence = 0.95;
  int resamples = 500;
  uint64_t seed = 0;
  double max_width = 0.1;  // of an interval that still tells something
  double max_factor = 10;  // times the most examples measured
};

struct CurvePrediction {
  double quality = 0, lower = 0, upper = 0;
  CurveEvidence evidence = CurveEvidence::kTooUncertain;  // only kEnough is an answer; the figures are there anyway
};

// Quality after training on `examples`. The interval comes from curves fitted to points that are drawn anew around
// the fitted curve by their standard errors. Of a 95% interval 92% to 99% hold the truth in simulations where the
// curve still rises, 83% to 85% where it is flat already: the best quality seen is then too high by chance. Errors
// as FitLearningCurve.
absl::StatusOr<CurvePrediction> PredictQuality(absl::Span<const CurvePoint> points, double examples,
                                               const CurveOptions& options);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_LEARNING_CURVE_H_
