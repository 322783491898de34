#include "server/evaluation/measures/label_balance.h"

#include <algorithm>
#include <cmath>

namespace attune {

LabelBalance MeasureLabelBalance(absl::Span<const std::string> labels) {
  LabelBalance out;
  if (labels.empty()) return out;
  for (const std::string& label : labels) ++out.counts[label];
  for (const auto& [label, count] : out.counts) {
    const double share = static_cast<double>(count) / labels.size();
    out.entropy -= share * std::log2(share);
    out.majority = std::max(out.majority, share);
  }
  const size_t distinct = out.counts.size();
  out.evenness = distinct == 1 ? 1 : out.entropy / std::log2(distinct);
  if (distinct == 1) out.entropy = 0;  // not -0
  return out;
}

}  // namespace attune
