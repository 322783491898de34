#ifndef ATTUNE_SERVER_TUNING_PASS_BATCH_H_
#define ATTUNE_SERVER_TUNING_PASS_BATCH_H_

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>

#include "server/data/batcher.h"
#include "server/model/kernels/attention.h"

namespace attune {

// Sizes that a batch is padded to, so that passes of one shape can be replayed.
struct PassShape {
  int64_t tokens = 0, sequences = 0, loss_rows = 0, longest = 0;
  auto operator<=>(const PassShape&) const = default;
};

// The batch's own sizes.
PassShape ExactShape(const MicroBatch& batch);
// What a batch of so many tokens is padded to.
int64_t BucketTokens(int64_t tokens);
// Where it is long, at most a sixteenth larger in each, one of few.
PassShape BucketShape(const MicroBatch& batch);

// A packed micro-batch as the pass reads it. All int64, on the device. Padding tokens
// form a sequence of their own that carries no loss.
struct PassBatch {
  at::Tensor step_seed, loss_tokens;    // scalars; the loss is the sum over rows / loss_tokens
  at::Tensor tokens_T;                  // token ids; virtual token i is -1 - i
  at::Tensor row_of_T;                  // the token's place among the loss rows, or -1
  at::Tensor loss_rows_N, targets_N;    // rows whose next token is trained, and that token; -1 for padding
  PackedSequences sequences;
};

// The batch as one int64 vector on the host, pinned for a GPU. REQUIRES: `shape` has room.
at::Tensor PackBatch(const MicroBatch& batch, const PassShape& shape, int64_t step_seed, int64_t loss_tokens,
                     bool pinned);

// A micro-batch that is ready for the device.
struct PackedMicroBatch {
  PassShape shape;
  at::Tensor packed;   // as PackBatch gives it
  int64_t tokens = 0;  // without padding
  bool is_captured = false;  // to run as a CUDA graph
};
// Views of such a vector on any device. Where sequences start is known to the host, too,
// if `host` is the vector there: attention without a kernel of its own asks for it.
PassBatch ViewBatch(const at::Tensor& packed, const PassShape& shape, const at::Tensor& host = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_PASS_BATCH_H_
