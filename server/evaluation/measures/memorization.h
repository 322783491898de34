#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_MEMORIZATION_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_MEMORIZATION_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "server/evaluation/measures/wilson.h"

// Whether a model repeats its training data: given an example's first tokens it is to go on, greedily, with just those
// that follow (extractable memorisation, Carlini et al. 2022).
namespace attune {

struct ContinuationOptions {
  int64_t prompt_tokens = 50, continuation_tokens = 50;
  // A shorter example is cut in the same proportion; one whose continuation would be shorter than this
  // proves nothing, since it can be guessed.
  int64_t min_continuation_tokens = 16;
};

// An example's beginning, and what must follow. Views of the example's tokens.
struct ContinuationTest {
  absl::Span<const int32_t> prompt, continuation;
};

// Nothing for an example that is too short. REQUIRES: token counts of at least 1.
std::optional<ContinuationTest> SplitForContinuation(absl::Span<const int32_t> tokens,
                                                     const ContinuationOptions& options);

// Whether what was generated starts with the whole continuation.
bool IsMemorized(const ContinuationTest& test, absl::Span<const int32_t> generated);

// The share of tested examples that came back exactly. REQUIRES: one generation for each test.
Proportion MemorizationRate(absl::Span<const ContinuationTest> tests,
                            absl::Span<const absl::Span<const int32_t>> generated);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_MEMORIZATION_H_
