#ifndef ATTUNE_SERVER_COMPARISON_TRIALS_H_
#define ATTUNE_SERVER_COMPARISON_TRIALS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "server/comparison/comparison.h"

namespace attune {

// Settings of one trial of a method, as factors of its defaults.
struct TrialSettings {
  double rate = 1;  // of the learning rate
  double size = 1;  // of a LoRA's rank, of a prompt's or prefix's virtual tokens
  bool operator==(const TrialSettings&) const = default;
};

// A small, honest search: the defaults first; then a higher learning rate, and on in the direction that helped; then
// another size. Methods differ in how far they step. `done`: the method's trials so far, each ended. Nothing if
// `most` were tried, or nothing is left to try, or the first one failed. `rate_is_given`: the user set the learning
// rate. Pure.
std::optional<TrialSettings> NextTrial(ContenderKind kind, const std::vector<Trial>& done, int64_t most,
                                       bool rate_is_given);

// The done trial with the best validation figure, the earlier of equals; -1 if none succeeded.
int32_t BestTrial(const std::vector<Trial>& trials);

// Whether further settings are not worth their cost: the method's best figure, at the upper end of its interval, is
// below `leader`'s lower end. Never before its first trial is done.
bool IsHopeless(const std::vector<Trial>& trials, const Measure& leader);

// The method as a job has it, with these settings, for a model of so many layers. REQUIRES: IsTuned(kind).
MethodSpec MethodFor(ContenderKind kind, const TrialSettings& settings, int64_t layers);

// "learning rate x2, rank 32"; "defaults".
std::string DescribeSettings(ContenderKind kind, const TrialSettings& settings);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_TRIALS_H_
