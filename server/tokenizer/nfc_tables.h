#ifndef ATTUNE_SERVER_TOKENIZER_NFC_TABLES_H_
#define ATTUNE_SERVER_TOKENIZER_NFC_TABLES_H_

#include <cstdint>

namespace attune {

// A character's canonical decomposition, of one or two characters, Hangul syllables left out.
struct CanonicalPair {
  uint32_t code, first, second;  // second 0: one character
  bool composes;                 // first and second become `code` again
};
inline constexpr int kCanonicalPairCount = 2061;
extern const CanonicalPair kCanonicalPairs[kCanonicalPairCount];  // by code

// Characters of a combining class other than 0.
struct CombiningRange {
  uint32_t first, last;
  uint8_t combining_class;
};
inline constexpr int kCombiningRangeCount = 382;
extern const CombiningRange kCombiningRanges[kCombiningRangeCount];  // by code

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_NFC_TABLES_H_
