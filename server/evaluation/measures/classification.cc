#include "server/evaluation/measures/classification.h"

namespace attune {
namespace {

double Ratio(int64_t part, int64_t whole) { return whole == 0 ? 0 : static_cast<double>(part) / whole; }

}  // namespace

void Confusion::Add(absl::string_view expected, absl::string_view predicted) {
  ++counts_[{std::string(expected), std::string(predicted)}];
  ++total_;
  correct_ += expected == predicted;
}

double Confusion::Accuracy() const { return Ratio(correct_, total_); }

std::vector<LabelScore> Confusion::Labels() const {
  std::map<std::string, LabelScore> scores;
  for (const auto& [pair, count] : counts_) {
    scores[pair.first].expected += count;
    scores[pair.second].predicted += count;
    if (pair.first == pair.second) scores[pair.first].correct = count;
  }
  std::vector<LabelScore> out;
  for (auto& [label, score] : scores) {
    score.label = label;
    score.precision = Ratio(score.correct, score.predicted);
    score.recall = Ratio(score.correct, score.expected);
    score.f1 = Ratio(2 * score.correct, score.expected + score.predicted);
    out.push_back(score);
  }
  return out;
}

double Confusion::MacroF1() const {
  const std::vector<LabelScore> labels = Labels();
  double sum = 0;
  for (const LabelScore& label : labels) sum += label.f1;
  return labels.empty() ? 0 : sum / labels.size();
}

}  // namespace attune
