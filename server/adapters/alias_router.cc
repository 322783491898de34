#include "server/adapters/alias_router.h"

#include <cmath>
#include <cstdint>

#include "common/stable_hash.h"

namespace attune {
namespace {

// In (0, 1).
double ToUniform(uint64_t hash) { return (static_cast<double>(hash >> 11) + 0.5) * 0x1p-53; }

}  // namespace

const AliasTarget& ChooseTarget(const std::vector<AliasTarget>& targets, absl::string_view key) {
  const uint64_t key_hash = StableHash(key);
  const AliasTarget* first = nullptr;
  double first_time = 0;
  // Exponential waiting times with the weights as rates: each target comes first with its weight's part.
  for (const AliasTarget& target : targets) {
    const double uniform = ToUniform(MixBits(key_hash + MixBits(StableHash(target.model))));
    const double time = -std::log(uniform) / static_cast<double>(target.weight);
    if (first != nullptr && time >= first_time) continue;
    first = &target;
    first_time = time;
  }
  return *first;
}

}  // namespace attune
