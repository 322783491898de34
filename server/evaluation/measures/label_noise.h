#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_LABEL_NOISE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_LABEL_NOISE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace attune {

// Which labels look wrong: those that a row's nearest neighbours outvote (edited nearest neighbours, Wilson 1972).
struct LabelNoise {
  std::vector<double> disagreement;  // for each row, the share of its neighbours with another label
  std::vector<int64_t> suspects;     // rows with some other label on more than half of their neighbours
  double rate = 0;                   // suspects per row
};

// `features` holds one vector after the other, all of a length; neighbours are the `neighbors` of the greatest cosine
// similarity, the lower row of equal ones. Time: rows squared times length. INVALID_ARGUMENT (BAD_FEATURES) if
// features do not divide by labels, or there are not more rows than neighbours.
absl::StatusOr<LabelNoise> FindLabelNoise(absl::Span<const float> features, absl::Span<const int32_t> labels,
                                          int neighbors = 10);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_LABEL_NOISE_H_
