#ifndef ATTUNE_SERVER_ENGINE_PROMPT_LOOKUP_H_
#define ATTUNE_SERVER_ENGINE_PROMPT_LOOKUP_H_

#include <cstdint>
#include <vector>

namespace attune {

// Guesses how a sequence goes on: as it did after the last place where its last few tokens stood
// before (prompt lookup decoding, Saxena 2023). Long matches are tried before short ones, of
// kMostMatched down to kLeastMatched tokens. Returns at most `count` tokens, none if there is no
// such place. Virtual tokens (negative) are neither matched nor guessed.
constexpr int kMostMatched = 4, kLeastMatched = 2;
std::vector<int32_t> LookUpContinuation(const std::vector<int32_t>& tokens, int64_t count);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_PROMPT_LOOKUP_H_
