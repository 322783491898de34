#ifndef ATTUNE_SERVER_COMPARISON_SPLIT_H_
#define ATTUNE_SERVER_COMPARISON_SPLIT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attune {

// What is known of a row that is to be put into a part.
struct SplitRow {
  std::string label;  // parts get the same share of every label
  std::string text;   // equal texts stay together, else the test would ask what was trained
};

// How many rows go where; the rest is for training.
struct SplitSizes {
  int64_t validation = 0, test = 0;
};

// Indices of rows, rising.
struct SplitParts {
  std::vector<int64_t> train, validation, test;
};

// Divides rows, the same for the same seed on any platform. Sizes are met to within a few rows: whole groups of
// equal texts move. REQUIRES: validation + test < rows.
SplitParts SplitRows(const std::vector<SplitRow>& rows, const SplitSizes& sizes, uint64_t seed);

// 0, 1, ... count - 1.
std::vector<int64_t> AllRows(size_t count);

// At most `count` of the indices, chosen by the seed, with each label's share kept; rising.
std::vector<int64_t> SampleRows(const std::vector<SplitRow>& rows, const std::vector<int64_t>& among, int64_t count,
                                uint64_t seed);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_SPLIT_H_
