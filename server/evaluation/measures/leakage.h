#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_LEAKAGE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_LEAKAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

// A test row that stands in the training data, too.
struct LeakedRow {
  int64_t test_row = 0, training_row = 0;
  bool exact = false;     // equal but for case and white space; else near
  double similarity = 1;  // Jaccard of shingles
};

struct Leakage {
  Proportion share;             // of test rows that leaked
  std::vector<LeakedRow> rows;  // by test row
};

// What of the test data a model may know by heart: exact duplicates of training rows (NormalizedHash), and near ones
// (NearDuplicateIndex) of at least `threshold`.
Leakage FindLeakage(absl::Span<const std::string> training, absl::Span<const std::string> test, double threshold = 0.8);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_LEAKAGE_H_
