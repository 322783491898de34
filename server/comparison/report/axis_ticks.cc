#include "server/comparison/report/axis_ticks.h"

#include <cmath>
#include <cstddef>

namespace attune {
namespace {

std::vector<double> Between(const std::vector<double>& values, double low, double high) {
  std::vector<double> between;
  for (double value : values) {
    if (value >= low && value <= high) between.push_back(value);
  }
  return between;
}

// Every nth, so that there are at most `most`.
std::vector<double> Thinned(const std::vector<double>& values, int most) {
  const size_t step = (values.size() + most - 1) / most;
  std::vector<double> thinned;
  for (size_t i = 0; i < values.size(); i += step) thinned.push_back(values[i]);
  return thinned;
}

std::vector<double> FewestOfTwo(const std::vector<double>& coarse, const std::vector<double>& fine, double low,
                                double high, int most) {
  const std::vector<double> few = Between(coarse, low, high);
  return Thinned(few.size() >= 3 ? few : Between(fine, low, high), most);
}

}  // namespace

std::vector<double> LinearTicks(double low, double high, int most) {
  double step = std::pow(10, std::floor(std::log10((high - low) / most)));
  for (double factor : {2.0, 2.5, 2.0}) {  // 1, 2, 5, 10
    if ((high - low) / step <= most) break;
    step *= factor;
  }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<double> LogTicks(double low, double high, int most) {
  std::vector<double> powers, fine;
  for (double exponent = std::floor(std::log10(low)); exponent <= std::log10(high); ++exponent) {
    const double power = std::pow(10, exponent);
    powers.push_back(power);
    for (double factor : {1, 2, 5}) fine.push_back(factor * power);
  }
  return FewestOfTwo(powers, fine, low, high, most);
}

std::vector<double> TimeTicks(double low, double high, int most) {
  static const auto* const coarse = new std::vector<double>{1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3600, 36e3, 360e3, 3.6e6};
  static const auto* const fine =
      new std::vector<double>{1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1,  0.2,  0.5,  1,    2,    5,     10,    20,   30,
                              60,   120,  300,  600,  1200, 1800, 3600, 7200, 18e3, 36e3, 72e3, 180e3, 360e3, 3.6e6};
  return FewestOfTwo(*coarse, *fine, low, high, most);
}

}  // namespace attune
