#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_LABEL_BALANCE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_LABEL_BALANCE_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/types/span.h"

namespace attune {

// How evenly labels are spread over rows.
struct LabelBalance {
  std::map<std::string, int64_t> counts;
  double entropy = 0;   // Shannon's (1948), in bits: 0 for one label, log2 of their number if all are as common
  double evenness = 0;  // entropy over its greatest value (Pielou 1966): 0 to 1; 1 for one label
  double majority = 0;  // the share of the commonest, which a model has right that always says it
};

// All zero for no labels.
LabelBalance MeasureLabelBalance(absl::Span<const std::string> labels);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_LABEL_BALANCE_H_
