#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_AGREEMENT_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_AGREEMENT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/evaluation/measures/wilson.h"

// Consistency: whether variants of one input get the same answer. A group holds the answers to one input's
// variants; they agree if their strings are equal, so normalise them before. Groups of fewer than two answers are left
// out.
namespace attune {

using AnswerGroup = std::vector<std::string>;

// The share of pairs of answers that are equal. REQUIRES: at least two answers.
double PairwiseAgreement(const AnswerGroup& group);

struct Agreement {
  double pairwise = 0;   // mean over groups
  Proportion unanimous;  // the share of groups with one answer only
};
// All zero without groups.
Agreement MeasureAgreement(absl::Span<const AnswerGroup> groups);

// Fleiss' kappa (1971): pairwise agreement beyond that of answers drawn at random with their overall shares. 1 is
// full agreement, 0 chance. Nothing if groups differ in size or all answers are one.
std::optional<double> FleissKappa(absl::Span<const AnswerGroup> groups);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_AGREEMENT_H_
