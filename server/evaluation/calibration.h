#ifndef ATTUNE_SERVER_EVALUATION_CALIBRATION_H_
#define ATTUNE_SERVER_EVALUATION_CALIBRATION_H_

#include <map>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/engine/engine.h"

// Contextual calibration (Zhao et al. 2021, "Calibrate Before Use"): a prompt favours some
// labels whatever the input is. How much shows where the input says nothing, and is taken off.
namespace attune {

// What a prompt's variables are set to where the input is to say nothing.
const std::vector<std::string>& ContentFreeInputs();

// What to add to each label's log-probability, from its log-probabilities (nats) after
// content-free inputs: minus the log of its mean share among the labels.
// REQUIRES: at least one input, and equally many labels after each.
std::vector<double> CalibrationOffsets(const std::vector<std::vector<double>>& content_free);

// By label, those of `labels`; empty (no calibration) unless every label has one.
std::vector<double> OffsetsFor(const std::map<std::string, double>& offsets, const std::vector<std::string>& labels);

// What labels are compared by: log-probabilities with their offsets. `offsets` may be empty.
std::vector<double> LabelScores(absl::Span<const ScoredContinuation> labels, const std::vector<double>& offsets);

// The first of the highest. REQUIRES: at least one.
size_t Likeliest(const std::vector<double>& label_scores);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_CALIBRATION_H_
