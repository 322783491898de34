#ifndef ATTUNE_SERVER_ENGINE_TOKEN_CHOICE_H_
#define ATTUNE_SERVER_ENGINE_TOKEN_CHOICE_H_

#include <memory>
#include <vector>

#include "server/engine/request.h"
#include "server/model/kernels/cuda/launch.h"

namespace attune {

// How a GPU is to choose an answer's next token, where that is not simply the likeliest one.
struct TokenChoice {
  cuda::ChosenRow row;  // but for what depends on its batch: row, first_change, pending, scratch_row, logprobs_row
  std::vector<cuda::LogitChange> changes;
};

// For the token behind all that is known of the answer and on its way: what SampleToken
// would choose, from the same seed. Null: the likeliest token. REQUIRES: ChoosesOnDevice(task).
std::shared_ptr<const TokenChoice> MakeTokenChoice(const Task& task);

// Whether a GPU can choose the task's next token without the host: not where a form, guesses or
// several answers hang on the logits.
bool ChoosesOnDevice(const Task& task);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_TOKEN_CHOICE_H_
