#include "server/model/rope_scaling.h"

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

}  // namespace

std::vector<double> RopeFrequencies(const RopeScaling& scaling, double theta, int64_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (scaling.kind) {
      case RopeScaling::Kind::kNone: break;
      case RopeScaling::Kind::kLinear: frequency /= scaling.factor; break;
      case RopeScaling::Kind::kLlama3: frequency /= Llama3Stretch(scaling, frequency); break;
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace attune
