#include "server/evaluation/measures/learning_curve.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "common/error.h"
#include "server/evaluation/measures/percentile.h"
#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

constexpr double kMinRate = 0.01, kMaxRate = 2;
constexpr double kTwoSided = 2 * 1.959963984540054;  // width of a 95% interval in standard errors
constexpr int kRates = 80;  // tried before the best is refined

absl::Status BadCurve(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_CURVE", message);
}

absl::Status Check(absl::Span<const CurvePoint> points, double bound) {
  std::set<double> sizes;
  for (const CurvePoint& point : points) {
    if (!std::isfinite(point.examples) || !std::isfinite(point.quality) || !std::isfinite(point.standard_error) ||
        point.examples <= 0 || point.standard_error <= 0) {
      return BadCurve("A point of a learning curve needs examples and a standard error above 0.");
    }
    if (point.quality > bound) return BadCurve("A point of a learning curve lies above the bound.");
    sizes.insert(point.examples);
  }
  if (sizes.size() < 3) return BadCurve("A learning curve needs three numbers of examples.");
  return absl::OkStatus();
}

struct Fit {
  LearningCurve curve;
  double loss = std::numeric_limits<double>::infinity();  // sum of squared residuals in standard errors
};

// Fits curves to points whose sizes are given relative to the smallest, which keeps powers near 1.
class Fitter {
 public:
  Fitter(absl::Span<const CurvePoint> points, double bound) : points_(points), high_(bound) {
    smallest_ = points[0].examples;
    low_ = points[0].quality;
    for (const CurvePoint& point : points) {
      smallest_ = std::min(smallest_, point.examples);
      low_ = std::max(low_, point.quality);
    }
  }

  Fit Best() const {
    const double step = std::log(kMaxRate / kMinRate) / (kRates - 1);
    int best = 0;
    std::vector<double> rates;
    Fit fit;
    for (int i = 0; i < kRates; ++i) {
      rates.push_back(std::min(kMaxRate, kMinRate * std::exp(i * step)));
      const Fit tried = AtRate(rates[i]);
      if (tried.loss < fit.loss) fit = tried, best = i;
    }
    fit = Refine(rates[std::max(0, best - 1)], rates[std::min(kRates - 1, best + 1)], fit);
    fit.curve.scale *= std::pow(smallest_, fit.curve.rate);
    return fit;
  }

 private:
  // Golden-section search between two rates.
  Fit Refine(double low, double high, Fit best) const {
    constexpr double kGolden = 0.6180339887498949;
    for (int i = 0; i < 40; ++i) {
      const double a = high - kGolden * (high - low), b = low + kGolden * (high - low);
      const Fit fit_a = AtRate(a), fit_b = AtRate(b);
      const Fit& better = fit_a.loss < fit_b.loss ? fit_a : fit_b;
      if (better.loss < best.loss) best = better;
      (fit_a.loss < fit_b.loss ? high : low) = fit_a.loss < fit_b.loss ? b : a;
    }
    return best;
  }

  // The best limit and scale for a rate: a convex problem in two variables, so the best is inside, or on an edge.
  Fit AtRate(double rate) const {
    double w = 0, wx = 0, wxx = 0, wq = 0, wxq = 0;
    for (const CurvePoint& point : points_) {
      const double weight = 1 / (point.standard_error * point.standard_error), x = Falloff(point, rate);
      w += weight, wx += weight * x, wxx += weight * x * x;
      wq += weight * point.quality, wxq += weight * x * point.quality;
    }
    const double inside_scale = (wx * wq - w * wxq) / (w * wxx - wx * wx);
    const double inside_limit = (wq + inside_scale * wx) / w;
    if (inside_scale >= 0 && inside_limit >= low_ && inside_limit <= high_) {
      return Measured({inside_limit, inside_scale, rate});
    }
    Fit best = Measured({std::clamp(wq / w, low_, high_), 0, rate});
    for (double limit : {low_, high_}) {
      if (!std::isfinite(limit)) continue;
      const Fit fit = Measured({limit, std::max(0.0, (limit * wx - wxq) / wxx), rate});
      if (fit.loss < best.loss) best = fit;
    }
    return best;
  }

  double Falloff(const CurvePoint& point, double rate) const { return std::pow(point.examples / smallest_, -rate); }

  Fit Measured(const LearningCurve& curve) const {
    Fit fit{curve, 0};
    for (const CurvePoint& point : points_) {
      const double expected = curve.limit - curve.scale * Falloff(point, curve.rate);
      const double residual = (point.quality - expected) / point.standard_error;
      fit.loss += residual * residual;
    }
    return fit;
  }

  const absl::Span<const CurvePoint> points_;
  const double high_;
  double low_, smallest_;
};

// Beyond what a chi-squared variable exceeds once in a thousand times (Wilson and Hilferty 1931).
bool IsPoorFit(double loss, size_t points) {
  constexpr double kZ = 3.090232;
  const double freedom = std::max(1.0, points - 3.0), spread = 2 / (9 * freedom);
  return loss > freedom * std::pow(1 - spread + kZ * std::sqrt(spread), 3);
}

CurveEvidence Weigh(const CurvePrediction& prediction, double loss, absl::Span<const CurvePoint> points,
                    double examples, const CurveOptions& options) {
  double most = 0, least_error = points[0].standard_error;
  for (const CurvePoint& point : points) {
    most = std::max(most, point.examples);
    least_error = std::min(least_error, point.standard_error);
  }
  if (examples > most * options.max_factor) return CurveEvidence::kTooFar;
  if (IsPoorFit(loss, points.size())) return CurveEvidence::kPoorFit;
  // Noisy points that all lie high can look certain, pressed together by the bound: no prediction is surer than its
  // best point.
  const double width = std::max(prediction.upper - prediction.lower, kTwoSided * least_error);
  if (width > options.max_width) return CurveEvidence::kTooUncertain;
  return CurveEvidence::kEnough;
}

}  // namespace

double LearningCurve::Quality(double examples) const { return limit - scale * std::pow(examples, -rate); }

absl::StatusOr<LearningCurve> FitLearningCurve(absl::Span<const CurvePoint> points, double bound) {
  ATTUNE_RETURN_IF_ERROR(Check(points, bound));
  return Fitter(points, bound).Best().curve;
}

absl::StatusOr<CurvePrediction> PredictQuality(absl::Span<const CurvePoint> points, double examples,
                                               const CurveOptions& options) {
  ATTUNE_RETURN_IF_ERROR(Check(points, options.bound));
  const Fit fit = Fitter(points, options.bound).Best();
  CounterRandom random(options.seed);
  std::vector<double> samples;
  for (int i = 0; i < options.resamples; ++i) {
    std::vector<CurvePoint> drawn(points.begin(), points.end());
    for (CurvePoint& point : drawn) {
      point.quality =
          std::min(options.bound, fit.curve.Quality(point.examples) + point.standard_error * random.Normal());
    }
    samples.push_back(Fitter(drawn, options.bound).Best().curve.Quality(examples));
  }
  const double tail = 50 * (1 - options.confidence);
  const std::vector<double> ends = Percentiles(std::move(samples), {tail, 100 - tail});
  CurvePrediction out;
  out.quality = fit.curve.Quality(examples);
  out.lower = std::min(ends[0], out.quality);
  out.upper = std::max(ends[1], out.quality);
  out.evidence = Weigh(out, fit.loss, points, examples, options);
  return out;
}

}  // namespace attune
