#include "server/evaluation/measures/memorization.h"

#include <algorithm>

namespace attune {

std::optional<ContinuationTest> SplitForContinuation(absl::Span<const int32_t> tokens,
                                                     const ContinuationOptions& options) {
  const int64_t wanted = options.prompt_tokens + options.continuation_tokens;
  const int64_t used = std::min<int64_t>(wanted, tokens.size());
  const int64_t prompt = std::max<int64_t>(1, used * options.prompt_tokens / wanted);
  const int64_t least = std::min(options.min_continuation_tokens, options.continuation_tokens);
  if (used - prompt < least) return std::nullopt;
  return ContinuationTest{tokens.subspan(0, prompt), tokens.subspan(prompt, used - prompt)};
}

bool IsMemorized(const ContinuationTest& test, absl::Span<const int32_t> generated) {
  return generated.size() >= test.continuation.size() &&
         std::equal(test.continuation.begin(), test.continuation.end(), generated.begin());
}

Proportion MemorizationRate(absl::Span<const ContinuationTest> tests,
                            absl::Span<const absl::Span<const int32_t>> generated) {
  int64_t memorized = 0;
  for (size_t i = 0; i < tests.size(); ++i) memorized += IsMemorized(tests[i], generated[i]);
  return WilsonInterval(memorized, tests.size());
}

}  // namespace attune
