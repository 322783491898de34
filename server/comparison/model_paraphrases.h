#ifndef ATTUNE_SERVER_COMPARISON_MODEL_PARAPHRASES_H_
#define ATTUNE_SERVER_COMPARISON_MODEL_PARAPHRASES_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/adapters/residency.h"
#include "server/comparison/side_effects.h"
#include "server/engine/engine.h"
#include "server/evaluation/engine_calls.h"

namespace attune {

// Whether `other` may pass for `text` in other words: it is not the same, about as long, and shares a fair part of its
// words (token F1 of 0.3 to 0.95). No proof: a small model that paraphrases badly makes nonsense of some inputs.
bool MayParaphrase(absl::string_view text, absl::string_view other);

// Adds to each row of the variants its input as the base model says it in other words, where what it says may pass for
// that: paraphrases by a model beside those by rules. Waits.
absl::Status AddModelParaphrases(Engine* engine, std::shared_ptr<const ServedModel> base, uint64_t seed, const GoOn& go_on,
                                 Variants* variants);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_MODEL_PARAPHRASES_H_
