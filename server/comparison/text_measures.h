#ifndef ATTUNE_SERVER_COMPARISON_TEXT_MEASURES_H_
#define ATTUNE_SERVER_COMPARISON_TEXT_MEASURES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/comparison/comparison.h"

// What generated answers are worth, besides the comparison's metric. Definitions: server/evaluation/README.md. Pure.
namespace attune {

// What suits answers such as these: kJsonMatch where all are JSON objects or lists, kExactMatch for short ones (three words
// on average), else kRougeL.
QualityMetric MetricFor(absl::Span<const std::string> expected);

// Exact match, token F1, ROUGE-L, chrF and BLEU; JSON validity where all expected answers are JSON objects or lists; pattern
// match where there is a pattern (one that cannot be read gives none). A row of which nothing was expected, since it did
// not fit, counts 0, and is left out of BLEU. REQUIRES: as many of one as of the other, at least one.
std::vector<Measure> TextMeasures(absl::Span<const std::string> expected, absl::Span<const std::string> answers,
                                  absl::string_view pattern);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_TEXT_MEASURES_H_
