#include "server/adapters/alias_router.h"

#include <cmath>
#include <cstdint>

namespace attune {
namespace {

// FNV-1a: which target a key goes to must not change with the build, as std::hash and absl::Hash may.
uint64_t HashText(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

// SplitMix64's finaliser (Steele et al. 2014): FNV's high bits alone are poor for short texts.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// In (0, 1).
double ToUniform(uint64_t hash) { return (static_cast<double>(hash >> 11) + 0.5) * 0x1p-53; }

}  // namespace

const AliasTarget& ChooseTarget(const std::vector<AliasTarget>& targets, absl::string_view key) {
  const uint64_t key_hash = HashText(key);
  const AliasTarget* first = nullptr;
  double first_time = 0;
  // Exponential waiting times with the weights as rates: each target comes first with its weight's part.
  for (const AliasTarget& target : targets) {
    const double uniform = ToUniform(Mix(key_hash + Mix(HashText(target.model))));
    const double time = -std::log(uniform) / static_cast<double>(target.weight);
    if (first != nullptr && time >= first_time) continue;
    first = &target;
    first_time = time;
  }
  return *first;
}

}  // namespace attune
