#include "server/evaluation/calibration.h"

#include <algorithm>
#include <cmath>

namespace attune {
namespace {

// Shares of 1 by log-probabilities.
std::vector<double> Softmax(const std::vector<double>& logprobs) {
  const double most = *std::max_element(logprobs.begin(), logprobs.end());
  std::vector<double> shares;
  double sum = 0;
  for (double logprob : logprobs) sum += shares.emplace_back(std::exp(logprob - most));
  for (double& share : shares) share /= sum;
  return shares;
}

}  // namespace

const std::vector<std::string>& ContentFreeInputs() {
  static const auto* const inputs = new std::vector<std::string>{"N/A", "", "[MASK]"};
  return *inputs;
}

std::vector<double> CalibrationOffsets(const std::vector<std::vector<double>>& content_free) {
  constexpr double kLeast = 1e-6;  // a label that never comes is not to win for that
  std::vector<double> offsets(content_free[0].size(), 0);
  for (const std::vector<double>& logprobs : content_free) {
    const std::vector<double> shares = Softmax(logprobs);
    for (size_t i = 0; i < offsets.size(); ++i) offsets[i] += shares[i] / static_cast<double>(content_free.size());
  }
  for (double& offset : offsets) offset = -std::log(std::max(offset, kLeast));
  return offsets;
}

std::vector<double> OffsetsFor(const std::map<std::string, double>& offsets, const std::vector<std::string>& labels) {
  std::vector<double> out;
  for (const std::string& label : labels) {
    const auto it = offsets.find(label);
    if (it == offsets.end()) return {};
    out.push_back(it->second);
  }
  return out;
}

std::vector<double> LabelScores(absl::Span<const ScoredContinuation> labels, const std::vector<double>& offsets) {
  std::vector<double> scores;
  for (const ScoredContinuation& label : labels) scores.push_back(label.logprob);
  for (size_t i = 0; i < offsets.size(); ++i) scores[i] += offsets[i];
  return scores;
}

size_t Likeliest(const std::vector<double>& label_scores) {
  return std::max_element(label_scores.begin(), label_scores.end()) - label_scores.begin();
}

}  // namespace attune
