#ifndef ATTUNE_SERVER_COMPARISON_ANSWER_SCORER_H_
#define ATTUNE_SERVER_COMPARISON_ANSWER_SCORER_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/comparison/comparison.h"
#include "server/evaluation/measures/pattern.h"

namespace attune {

// Judges a generated answer by itself. Definitions: server/evaluation/README.md. Immutable: thread-safe.
class AnswerScorer {
 public:
  // `pattern`: of kPatternMatch. Errors: BAD_PATTERN. REQUIRES: a metric of generated answers that no model judges.
  static absl::StatusOr<AnswerScorer> Create(QualityMetric metric, absl::string_view pattern);

  // 0 to 1. An answer that is too much work for the pattern does not match it.
  double Score(const std::string& expected, const std::string& answer) const;

 private:
  AnswerScorer(QualityMetric metric, std::optional<Pattern> pattern);

  QualityMetric metric_;
  std::optional<Pattern> pattern_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_ANSWER_SCORER_H_
