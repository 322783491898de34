#include "server/comparison/answer_scorer.h"

#include <utility>

#include "absl/types/span.h"
#include "common/error.h"
#include "server/evaluation/measures/chrf.h"
#include "server/evaluation/measures/exact_match.h"
#include "server/evaluation/measures/number_match.h"
#include "server/evaluation/measures/rouge.h"
#include "server/evaluation/measures/structured.h"
#include "server/evaluation/measures/token_f1.h"

namespace attune {

absl::StatusOr<AnswerScorer> AnswerScorer::Create(QualityMetric metric, absl::string_view pattern) {
  if (metric != QualityMetric::kPatternMatch) return AnswerScorer(metric, std::nullopt);
  ATTUNE_ASSIGN_OR_RETURN(Pattern compiled, Pattern::Compile(pattern));
  return AnswerScorer(metric, std::move(compiled));
}

AnswerScorer::AnswerScorer(QualityMetric metric, std::optional<Pattern> pattern)
    : metric_(metric), pattern_(std::move(pattern)) {}

double AnswerScorer::Score(const std::string& expected, const std::string& answer) const {
  const absl::Span<const std::string> references(&expected, 1);
  switch (metric_) {
    case QualityMetric::kTokenF1:
      return TokenF1(answer, references);
    case QualityMetric::kRougeL:
      return RougeL(answer, references).f1;
    case QualityMetric::kChrf:
      return ChrfScore(CountChrf(answer, references));
    case QualityMetric::kNumberMatch:
      return NumbersMatch(answer, expected);
    case QualityMetric::kJsonMatch:
      return JsonEquals(answer, expected);
    case QualityMetric::kPatternMatch:
      return pattern_->FullMatch(answer).value_or(false);
    case QualityMetric::kAuto:
    case QualityMetric::kLabelAccuracy:
    case QualityMetric::kExactMatch:
    case QualityMetric::kJudge:
    case QualityMetric::kLikelihood:
      break;
  }
  return ExactMatch(answer, references, AnswerForm::kStripped);
}

}  // namespace attune
