#ifndef ATTUNE_SERVER_TUNING_PASS_BATCH_H_
#define ATTUNE_SERVER_TUNING_PASS_BATCH_H_

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>
#include <vector>

#include "server/data/batcher.h"
#include "server/model/kernels/attention.h"

namespace attune {

// Sizes that a batch is padded to, so that passes of one shape can be replayed.
struct PassShape {
  int64_t tokens = 0, sequences = 0, loss_rows = 0, longest = 0;
  int64_t places = 0;  // of a joint batch; 0: it is one job's
  int64_t pairs = 0;   // of a batch of preferences; 0: it is none
  int64_t top_k = 0;   // of the teacher's tokens for each loss row; 0: there is no teacher
  auto operator<=>(const PassShape&) const = default;
};

// The batch's own sizes.
PassShape ExactShape(const MicroBatch& batch);
// What a batch of so many tokens is padded to.
int64_t BucketTokens(int64_t tokens);
// Where it is long, at most a sixteenth larger in each, one of few.
PassShape BucketShape(const MicroBatch& batch);
// The same of a joint batch, whose sizes vary more: fewer and larger steps.
PassShape JointShape(const MicroBatch& batch, int64_t places);

// A job's part of a joint batch, whose jobs' rows follow one another.
struct BatchPart {
  int64_t place = 0;  // of the job, below PassShape::places
  int64_t tokens = 0, loss_rows = 0;
  int64_t step_seed = 0, loss_tokens = 1;  // the job's own
};

// Which rows of a joint batch are whose.
struct JointRows {
  at::Tensor foreign_TP, foreign_NP;  // bool: whether row t, or loss row n, is of another job than place p's
  at::Tensor step_seeds_T, rows_T;    // int64: of the row's job; the row's place in the job's own batch
  at::Tensor scales_N;                // fp32: 1 / the loss tokens of the row's job
};

// Which loss rows of a batch of preferences are whose. P pairs, of which some may be padding.
struct PreferenceRows {
  at::Tensor signs_PN;    // double: 1 where row n is of pair p's chosen answer, -1 of its rejected one, else 0
  at::Tensor margins_P;   // double: the reference's log-probability of the chosen answer less that of the rejected
  at::Tensor is_pair_P;   // double: 1, or 0 for padding
};

// What the teacher says of each loss row; of padding nothing that counts.
struct TeacherRows {
  at::Tensor ids_NK;                // int64, different ones in each row
  at::Tensor log_probabilities_NK;  // fp32
};

// A packed micro-batch as the pass reads it. All int64, on the device. Padding tokens
// form a sequence of their own that carries no loss.
struct PassBatch {
  at::Tensor step_seed, loss_tokens;    // scalars; the loss is the sum over rows (of preferences, pairs) / loss_tokens
  at::Tensor tokens_T;                  // token ids; virtual token i is -1 - i
  at::Tensor row_of_T;                  // the token's place among the loss rows, or -1
  at::Tensor loss_rows_N, targets_N;    // rows whose next token is trained, and that token; -1 for padding
  PackedSequences sequences;
  PreferenceRows preferences;  // undefined of other batches
  TeacherRows teacher;         // likewise
  JointRows joint;  // of a joint batch; then step_seed and loss_tokens mean nothing
};

// The batch as one int64 vector on the host, pinned for a GPU. REQUIRES: `shape` has room.
at::Tensor PackBatch(const MicroBatch& batch, const PassShape& shape, int64_t step_seed, int64_t loss_tokens,
                     bool pinned);
// The same of a joint batch; shape.places > 0.
at::Tensor PackJointBatch(const MicroBatch& batch, const std::vector<BatchPart>& parts, const PassShape& shape,
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
