#ifndef ATTUNE_TESTS_ENGINE_CORE_SEQUENCES_H_
#define ATTUNE_TESTS_ENGINE_CORE_SEQUENCES_H_

#include <cstdint>

#include "server/engine/batch_scheduler.h"

namespace attune {

inline Sequence Prompt(int64_t tokens) {
  Sequence sequence;
  sequence.tokens.assign(tokens, 1);
  return sequence;
}

// Does what the plan says.
inline void Compute(const BatchScheduler::Plan& plan) {
  for (const auto& item : plan.items) item.sequence->computed += item.tokens;
}

}  // namespace attune

#endif  // ATTUNE_TESTS_ENGINE_CORE_SEQUENCES_H_
