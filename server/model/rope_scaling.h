#ifndef ATTUNE_SERVER_MODEL_ROPE_SCALING_H_
#define ATTUNE_SERVER_MODEL_ROPE_SCALING_H_

#include <cstdint>
#include <vector>

namespace attune {

// How rotary frequencies are stretched for long contexts.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1;
  // kLlama3 only (as in Llama 3.1's config.json).
  double low_frequency_factor = 1, high_frequency_factor = 4;
  double original_context = 8192;  // kYarn's and kLongRope's, too
  // kYarn only (Peng et al. 2023). Pairs that turn more than beta_fast times within the original context stay, those
  // that turn less than beta_slow times are stretched, and those between are blended; `truncate` takes whole pairs
  // for the bounds.
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;
  double attention_factor = 1;  // both cosines and sines are multiplied by it; kLongRope's, too
  // kLongRope only (Ding et al. 2024): what each pair's frequency is divided by, head_dim / 2 values, in sequences that fit into
  // the original context, and in longer ones. A token's angles so depend on how long its sequence is going to be: such models are
  // held to their original context, and the long factors and context are kept for their files alone.
  std::vector<double> short_factors, long_factors;
  int64_t stretched_context = 0;
};

// YaRN's attention_factor where a file does not say it: 0.1 ln(factor) + 1.
double YarnAttentionFactor(double factor, double mscale = 1);

// One angular frequency per pair of a head's dimensions, head_dim / 2 values: theta^(-2i / head_dim)
// (Su et al. 2021), scaling applied.
std::vector<double> RopeFrequencies(const RopeScaling& scaling, double theta, int64_t head_dim);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_ROPE_SCALING_H_
