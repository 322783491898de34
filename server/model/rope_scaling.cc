#include "server/model/rope_scaling.h"

#include <algorithm>
#include <cmath>

namespace attune {
namespace {

constexpr double kPi = 3.14159265358979323846;

// How much slower a pair of dimensions turns than without scaling, in Llama 3.1's way:
// long waves are stretched by `factor`, short ones stay, those between are blended.
double Llama3Stretch(const RopeScaling& scaling, double frequency) {
  double turns = scaling.original_context * frequency / (2 * kPi);  // within the original context
  if (turns > scaling.high_frequency_factor) return 1;
  if (turns < scaling.low_frequency_factor) return scaling.factor;
  double smooth = (turns - scaling.low_frequency_factor) /
                  (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

// The pair of dimensions, as a fraction, that turns so often within the original context.
double PairOfTurns(const RopeScaling& scaling, double theta, int64_t head_dim, double turns) {
  return static_cast<double>(head_dim) * std::log(scaling.original_context / (turns * 2 * kPi)) / (2 * std::log(theta));
}

// How far each pair is stretched: 0 not at all, 1 by the whole factor.
std::vector<double> YarnRamp(const RopeScaling& scaling, double theta, int64_t head_dim) {
  double low = PairOfTurns(scaling, theta, head_dim, scaling.beta_fast);
  double high = PairOfTurns(scaling, theta, head_dim, scaling.beta_slow);
  if (scaling.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;
  std::vector<double> ramp(head_dim / 2);
  for (size_t i = 0; i < ramp.size(); ++i) ramp[i] = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return ramp;
}

}  // namespace

double YarnAttentionFactor(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

std::vector<double> RopeFrequencies(const RopeScaling& scaling, double theta, int64_t head_dim) {
  std::vector<double> frequencies(head_dim / 2), ramp;
  if (scaling.kind == RopeScaling::Kind::kYarn) ramp = YarnRamp(scaling, theta, head_dim);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (scaling.kind) {
      case RopeScaling::Kind::kNone: break;
      case RopeScaling::Kind::kLinear: frequency /= scaling.factor; break;
      case RopeScaling::Kind::kLlama3: frequency /= Llama3Stretch(scaling, frequency); break;
      case RopeScaling::Kind::kYarn: frequency *= 1 - ramp[i] + ramp[i] / scaling.factor; break;
      case RopeScaling::Kind::kLongRope: frequency /= scaling.short_factors[i]; break;
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace attune
