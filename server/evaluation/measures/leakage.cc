#include "server/evaluation/measures/leakage.h"

#include <optional>

#include "absl/container/flat_hash_map.h"
#include "server/evaluation/measures/duplicates.h"
#include "server/evaluation/measures/minhash.h"

namespace attune {

Leakage FindLeakage(absl::Span<const std::string> training, absl::Span<const std::string> test, double threshold) {
  absl::flat_hash_map<uint64_t, int64_t> exact;
  NearDuplicateIndex near(threshold);
  for (size_t i = 0; i < training.size(); ++i) {
    exact.try_emplace(NormalizedHash(training[i]), i);
    near.Add(training[i]);
  }
  Leakage out;
  for (size_t i = 0; i < test.size(); ++i) {
    const int64_t row = i;
    if (const auto it = exact.find(NormalizedHash(test[i])); it != exact.end()) {
      out.rows.push_back({row, it->second, true, 1});
    } else if (const std::optional<NearDuplicateIndex::Match> match = near.Find(test[i])) {
      out.rows.push_back({row, match->index, false, match->similarity});
    }
  }
  out.share = WilsonInterval(out.rows.size(), test.size());
  return out;
}

}  // namespace attune
