#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_EXAMPLE_SELECTION_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_EXAMPLE_SELECTION_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/shuffle.h"

// Which rows become a prompt's examples. Pure; the same for the same seed.
namespace attune {

// `labels[i]` is row i's; rows are chosen among `eligible`, at most `count` of them, labels in
// turn, so that no two labels' numbers differ by more than one while both have rows left.
std::vector<int64_t> SelectByLabel(const std::vector<std::string>& labels, const std::vector<int64_t>& eligible,
                                   int64_t count, uint64_t seed);

// The first at random, each next one the farthest from those chosen (Gonzalez 1985), by the
// angle between `features[i]`, which are of length 1.
std::vector<int64_t> SelectDiverse(const std::vector<std::vector<float>>& features,
                                   const std::vector<int64_t>& eligible, int64_t count, uint64_t seed);

// A text's words, hashed into a vector of length 1 (all zero for no words).
std::vector<float> TextFeatures(absl::string_view text);

// In an order that only the seed decides.
template <typename T>
void ShuffleBySeed(std::vector<T>* items, uint64_t seed) {
  std::mt19937_64 random(seed);
  Shuffle(items, [&](int64_t count) { return random() % static_cast<uint64_t>(count); });
}

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_EXAMPLE_SELECTION_H_
