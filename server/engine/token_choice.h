#ifndef ATTUNE_SERVER_ENGINE_TOKEN_CHOICE_H_
#define ATTUNE_SERVER_ENGINE_TOKEN_CHOICE_H_

#include <memory>
#include <vector>

#include "server/engine/request.h"
#include "server/model/kernels/cuda/launch.h"

namespace attune {

// How a GPU is to choose an answer's next token, where that is not simply the likeliest one.
struct TokenChoice {
  // But for what depends on its batch: row, first_change, pending, scratch_row, logprobs_row, mask_row, logits_row.
  cuda::ChosenRow row;
  std::vector<cuda::LogitChange> changes;
};

// For the token behind all that is known of the answer and on its way: what SampleToken
// would choose, from the same seed, but for what an answer's form forbids. Null: the likeliest token.
// REQUIRES: ChoosesOnDevice(task).
std::shared_ptr<const TokenChoice> MakeTokenChoice(const Task& task);

// Whether a GPU can choose the task's next token, with no more from the host than which tokens the answer's form allows:
// not where guesses or several answers hang on the logits.
bool ChoosesOnDevice(const Task& task);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_TOKEN_CHOICE_H_
