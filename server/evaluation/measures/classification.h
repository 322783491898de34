#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_CLASSIFICATION_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_CLASSIFICATION_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace attune {

// How one label fared. A ratio with nothing below is 0.
struct LabelScore {
  std::string label;
  int64_t expected = 0, predicted = 0, correct = 0;
  double precision = 0, recall = 0, f1 = 0;
};

// Counts (expected, predicted) pairs of labels. Not thread-safe.
class Confusion {
 public:
  void Add(absl::string_view expected, absl::string_view predicted);

  int64_t total() const { return total_; }
  // The pairs seen, by expected, then predicted label.
  const std::map<std::pair<std::string, std::string>, int64_t>& counts() const { return counts_; }

  // The share that is right; 0 of nothing.
  double Accuracy() const;
  // Every label that was expected or predicted, sorted.
  std::vector<LabelScore> Labels() const;
  // The plain mean of the labels' f1: a rare label counts as much as a common one. 0 of nothing.
  double MacroF1() const;

 private:
  std::map<std::pair<std::string, std::string>, int64_t> counts_;
  int64_t total_ = 0, correct_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_CLASSIFICATION_H_
