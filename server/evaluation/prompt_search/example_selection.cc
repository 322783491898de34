#include "server/evaluation/prompt_search/example_selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/ascii.h"
#include "common/stable_hash.h"

namespace attune {
namespace {

constexpr size_t kFeatures = 256;

uint64_t HashOf(absl::string_view word) { return StableHash(absl::AsciiStrToLower(word)); }

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

std::vector<int64_t> SelectByLabel(const std::vector<std::string>& labels, const std::vector<int64_t>& eligible,
                                   int64_t count, uint64_t seed) {
  std::vector<int64_t> order = eligible;
  ShuffleBySeed(&order, seed);
  std::map<std::string, std::vector<int64_t>> rows_of;
  for (int64_t row : order) rows_of[labels[row]].push_back(row);
  std::vector<std::string> turn;
  for (const auto& [label, rows] : rows_of) turn.push_back(label);
  ShuffleBySeed(&turn, seed + 1);
  std::vector<int64_t> chosen;
  for (size_t round = 0; static_cast<int64_t>(chosen.size()) < std::min<int64_t>(count, order.size()); ++round) {
    for (const std::string& label : turn) {
      const std::vector<int64_t>& rows = rows_of[label];
      if (round < rows.size() && static_cast<int64_t>(chosen.size()) < count) chosen.push_back(rows[round]);
    }
  }
  return chosen;
}

std::vector<int64_t> SelectDiverse(const std::vector<std::vector<float>>& features,
                                   const std::vector<int64_t>& eligible, int64_t count, uint64_t seed) {
  std::vector<int64_t> order = eligible;
  ShuffleBySeed(&order, seed);
  std::vector<int64_t> chosen;
  std::vector<double> nearest(order.size(), -std::numeric_limits<double>::infinity());  // likeness to a chosen one
  size_t next = 0;
  while (static_cast<int64_t>(chosen.size()) < std::min<int64_t>(count, order.size())) {
    chosen.push_back(order[next]);
    nearest[next] = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < order.size(); ++i) {
      nearest[i] = std::max(nearest[i], Dot(features[order[i]], features[chosen.back()]));
    }
    next = std::min_element(nearest.begin(), nearest.end()) - nearest.begin();
  }
  return chosen;
}

std::vector<float> TextFeatures(absl::string_view text) {
  std::vector<float> features(kFeatures, 0);
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && !absl::ascii_isspace(text[end]) && !absl::ascii_ispunct(text[end])) ++end;
    if (end > i) features[HashOf(text.substr(i, end - i)) % kFeatures] += 1;
    i = end + 1;
  }
  const double length = std::sqrt(Dot(features, features));
  for (float& value : features) value = length > 0 ? static_cast<float>(value / length) : 0;
  return features;
}

}  // namespace attune
