#ifndef ATTUNE_SERVER_ENGINE_MODEL_RUNNER_H_
#define ATTUNE_SERVER_ENGINE_MODEL_RUNNER_H_

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/adapters/adapter.h"
#include "server/model/base_model.h"
#include "server/model/kernels/paged_attention.h"

namespace attune {

struct TokenChoice;

// A piece of one sequence in a forward pass.
struct ForwardItem {
  const int32_t* tokens = nullptr;  // the piece's ids; virtual token i is -1 - i
  int64_t count = 0;
  int64_t context = 0;                // tokens before it, cached
  const std::vector<int32_t>* pages = nullptr;
  const Adapter* adapter = nullptr;   // null: the base model
  int64_t first_logits = 0;           // logits are wanted after tokens first_logits .. count - 1 of the piece
  // For a GpuRunner alone:
  uint64_t adapter_uid = 0;           // tells adapters apart
  int32_t sampled_row = -1;           // >= 0: the one token is what this row of the step before chose
  bool wants_logits = true;           // else a token after the last row is all that is asked for
  bool wants_last_logits = false;     // besides, those after the last row
  const int32_t* scored = nullptr;    // in place of logits: the token after each wanted row, to be scored; else null
  std::shared_ptr<const TokenChoice> choice;  // how that is chosen; null: the likeliest one
  bool waits_for_mask = false;        // it is chosen once it is known which tokens the answer's form allows

  // Rows of logits that are wanted.
  int64_t wanted() const { return count - std::min(count, first_logits); }
};

// One forward pass of a model over pieces of any sequences, each under its own
// adapter; keys and values go into `cache`. Items must be grouped by adapter. Returns
// fp32 logits on the CPU, one row for each wanted token in item order. Throws
// libtorch's exceptions. Not thread-safe for one cache.
at::Tensor ForwardBatch(const BaseModel& base, const std::vector<ForwardItem>& items, KvCache* cache);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_MODEL_RUNNER_H_
