#include "server/evaluation/measures/duplicates.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_join.h"
#include "common/stable_hash.h"
#include "server/evaluation/measures/characters.h"

namespace attune {

uint64_t HashText(absl::string_view text) { return MixBits(StableHash(text)); }

uint64_t NormalizedHash(absl::string_view text) {
  const std::string lower = LowerCase(text);
  return HashText(absl::StrJoin(SplitWords(lower), " "));
}

std::vector<int64_t> FirstOccurrences(absl::Span<const std::string> texts) {
  absl::flat_hash_map<uint64_t, int64_t> seen;
  std::vector<int64_t> first;
  for (const std::string& text : texts) {
    first.push_back(seen.try_emplace(NormalizedHash(text), static_cast<int64_t>(first.size())).first->second);
  }
  return first;
}

}  // namespace attune
