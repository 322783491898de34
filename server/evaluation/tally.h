#ifndef ATTUNE_SERVER_EVALUATION_TALLY_H_
#define ATTUNE_SERVER_EVALUATION_TALLY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "server/evaluation/evaluator.h"

namespace attune {

// Adds up an evaluation's examples. Not thread-safe.
class Tally {
 public:
  // The expected answer's tokens; only those marked in `has_loss` count.
  void AddAnswer(const ScoredContinuation& answer, const std::vector<uint8_t>& has_loss);
  void AddLabel(const std::string& expected, const std::string& predicted);
  void AddExactMatch(bool matches);
  void AddExample() { ++examples_; }

  int64_t examples() const { return examples_; }
  // All figures but the seconds; labels sorted.
  EvaluationResult Result() const;

 private:
  int64_t examples_ = 0;
  double logprob_sum_ = 0;
  int64_t answer_tokens_ = 0, right_tokens_ = 0;
  int64_t exact_trials_ = 0, exact_matches_ = 0;
  int64_t label_trials_ = 0, right_labels_ = 0;
  std::map<std::string, LabelResult> labels_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_TALLY_H_
