#include "server/evaluation/measures/rank_correlation.h"

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace attune {
namespace {

int Order(double x, double y) { return (x > y) - (x < y); }

}  // namespace

std::optional<double> KendallTau(absl::Span<const double> a, absl::Span<const double> b) {
  int64_t alike = 0, untied_a = 0, untied_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const int in_a = Order(a[i], a[j]), in_b = Order(b[i], b[j]);
      alike += in_a * in_b;
      untied_a += in_a != 0;
      untied_b += in_b != 0;
    }
  }
  if (untied_a == 0 || untied_b == 0) return std::nullopt;
  return alike / std::sqrt(static_cast<double>(untied_a) * static_cast<double>(untied_b));
}

}  // namespace attune
