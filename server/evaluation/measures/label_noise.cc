#include "server/evaluation/measures/label_noise.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/error.h"

namespace attune {
namespace {

// Vectors of length 1, so that their products are cosines; one of zeros stays.
std::vector<float> Normalized(absl::Span<const float> features, size_t width) {
  std::vector<float> out(features.begin(), features.end());
  for (size_t begin = 0; begin < out.size(); begin += width) {
    double squares = 0;
    for (size_t i = begin; i < begin + width; ++i) squares += static_cast<double>(out[i]) * out[i];
    if (squares == 0) continue;
    const double scale = 1 / std::sqrt(squares);
    for (size_t i = begin; i < begin + width; ++i) out[i] = static_cast<float>(out[i] * scale);
  }
  return out;
}

// The rows most similar to `row`, itself left out.
std::vector<size_t> Nearest(const std::vector<float>& unit, size_t width, size_t row, int count) {
  std::vector<std::pair<double, size_t>> order;  // minus the similarity, row
  for (size_t other = 0; other * width < unit.size(); ++other) {
    if (other == row) continue;
    const float *a = &unit[row * width], *b = &unit[other * width];
    order.emplace_back(-std::inner_product(a, a + width, b, 0.0), other);
  }
  std::partial_sort(order.begin(), order.begin() + count, order.end());
  std::vector<size_t> rows;
  for (int i = 0; i < count; ++i) rows.push_back(order[i].second);
  return rows;
}

}  // namespace

absl::StatusOr<LabelNoise> FindLabelNoise(absl::Span<const float> features, absl::Span<const int32_t> labels,
                                          int neighbors) {
  if (neighbors < 1 || static_cast<int64_t>(labels.size()) <= neighbors || features.empty() ||
      features.size() % labels.size() != 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_FEATURES",
                     "Label noise needs a vector for each label, and more rows than neighbours.");
  }
  const size_t width = features.size() / labels.size();
  const std::vector<float> unit = Normalized(features, width);
  LabelNoise out;
  for (size_t row = 0; row < labels.size(); ++row) {
    absl::flat_hash_map<int32_t, int> votes;
    int other = 0, most = 0;
    for (size_t neighbor : Nearest(unit, width, row, neighbors)) {
      if (labels[neighbor] == labels[row]) continue;
      ++other;
      most = std::max(most, ++votes[labels[neighbor]]);
    }
    out.disagreement.push_back(static_cast<double>(other) / neighbors);
    if (2 * most > neighbors) out.suspects.push_back(row);
  }
  out.rate = static_cast<double>(out.suspects.size()) / labels.size();
  return out;
}

}  // namespace attune
