#include "server/engine/prompt_lookup.h"

#include <algorithm>

namespace attune {
namespace {

// Length of the longest common ending of tokens[0, end) and the whole, up to kMostMatched.
int64_t Matched(const std::vector<int32_t>& tokens, int64_t end) {
  const int64_t size = static_cast<int64_t>(tokens.size());
  int64_t length = 0;
  while (length < kMostMatched && length < end && tokens[end - 1 - length] >= 0 &&
         tokens[end - 1 - length] == tokens[size - 1 - length]) {
    ++length;
  }
  return length;
}

}  // namespace

std::vector<int32_t> LookUpContinuation(const std::vector<int32_t>& tokens, int64_t count) {
  const int64_t size = static_cast<int64_t>(tokens.size());
  int64_t best = kLeastMatched - 1, begin = size;
  for (int64_t end = size - 1; end >= kLeastMatched && best < kMostMatched; --end) {
    const int64_t length = Matched(tokens, end);
    if (length <= best) continue;
    best = length;
    begin = end;
  }
  if (begin == size) return {};
  return {tokens.begin() + begin, tokens.begin() + std::min(size, begin + count)};
}

}  // namespace attune
