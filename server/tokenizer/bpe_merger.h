#ifndef ATTUNE_SERVER_TOKENIZER_BPE_MERGER_H_
#define ATTUNE_SERVER_TOKENIZER_BPE_MERGER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace attune {

// The texts of two neighbours that become one token, most important first.
using BpeMerges = std::vector<std::pair<std::string, std::string>>;

// Byte pair encoding of one word whose characters are tokens already: the pair
// of the lowest rank merges first, the leftmost of equals. Immutable: thread-safe.
class BpeMerger {
 public:
  // UNSUPPORTED_TOKENIZER if a merge needs or makes a token that is not there.
  static absl::StatusOr<BpeMerger> Create(const std::vector<std::string>& tokens, const BpeMerges& merges);

  // Merges of vocabularies that have no list of them (tiktoken's): two neighbours merge if they make a token together,
  // and a token's rank is its id, however it is cut in two. Empty texts are no tokens.
  static BpeMerger OfRankedTokens(const std::vector<std::string>& tokens);

  // Merges `symbols` in place, in O(n log n). Symbols may be any number.
  void Apply(std::vector<int32_t>* symbols) const;

 private:
  struct Merge {
    int32_t rank = -1;  // -1: no merge
    int32_t id = -1;
  };
  Merge Find(int32_t left, int32_t right) const;
  void ApplyShort(std::vector<int32_t>* symbols) const;
  void ApplyLong(std::vector<int32_t>* symbols) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_BPE_MERGER_H_
