#include "server/evaluation/tally.h"

#include <cmath>

namespace attune {

void Tally::AddAnswer(const ScoredContinuation& answer, const std::vector<uint8_t>& has_loss) {
  for (size_t i = 0; i < answer.tokens.size() && i < has_loss.size(); ++i) {
    if (!has_loss[i]) continue;
    logprob_sum_ += answer.tokens[i].logprob;
    ++answer_tokens_;
    right_tokens_ += i < answer.greedy.size() && answer.greedy[i] != 0;
  }
}

void Tally::AddLabel(const std::string& expected, const std::string& predicted) {
  ++label_trials_;
  ++labels_[expected].count;
  ++labels_[predicted].predicted;
  if (expected != predicted) return;
  ++right_labels_;
  ++labels_[expected].correct;
}

void Tally::AddExactMatch(bool matches) {
  ++exact_trials_;
  exact_matches_ += matches;
}

EvaluationResult Tally::Result() const {
  EvaluationResult out;
  out.examples = examples_;
  out.has_label_accuracy = label_trials_ > 0;
  out.label_accuracy = WilsonInterval(right_labels_, label_trials_);
  out.has_exact_match = exact_trials_ > 0;
  out.exact_match = WilsonInterval(exact_matches_, exact_trials_);
  if (answer_tokens_ > 0) {
    out.token_accuracy = static_cast<double>(right_tokens_) / answer_tokens_;
    out.loss = -logprob_sum_ / answer_tokens_;
    out.perplexity = std::exp(out.loss);
  }
  for (const auto& [label, result] : labels_) {
    out.labels.push_back(result);
    out.labels.back().label = label;
  }
  return out;
}

}  // namespace attune
