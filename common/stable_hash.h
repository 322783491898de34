#ifndef ATTUNE_COMMON_STABLE_HASH_H_
#define ATTUNE_COMMON_STABLE_HASH_H_

#include <cstdint>

#include "absl/strings/string_view.h"

// Hashes that are the same in every build, process and machine, which std::hash and absl::Hash are not. What is stored or
// handed out hangs on them: they never change.
namespace attune {

// FNV-1a of the bytes. Its high bits alone are poor for short texts: see MixBits.
inline uint64_t StableHash(absl::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ULL;
  return hash;
}

// The finaliser of SplitMix64 (Steele et al. 2014): a bijection that mixes all bits.
inline uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace attune

#endif  // ATTUNE_COMMON_STABLE_HASH_H_
