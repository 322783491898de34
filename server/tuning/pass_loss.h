#ifndef ATTUNE_SERVER_TUNING_PASS_LOSS_H_
#define ATTUNE_SERVER_TUNING_PASS_LOSS_H_

#include <ATen/core/Tensor.h>

#include <functional>

#include "server/jobs/job.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/tuning/pass_batch.h"

namespace attune {

// What a pass does beyond its method. The same for all passes of a job.
struct PassOptions {
  double noise_alpha = 0;  // NEFTune's, of embedding_noise.h; 0: none
  // Of batches of preferences: see tuning_job.proto.
  double beta = 0.1, label_smoothing = 0;
  // Of batches with a teacher, likewise.
  double temperature = 1, teacher_weight = 0.5;
};
// As a job says, defaults filled in.
PassOptions PassOptionsOf(const JobSpec& spec);

struct PassResult {
  at::Tensor loss_sum;    // double scalar, of the rows that carry loss, or of the pairs; of a joint batch, one a place
  at::Tensor correct;     // int64 scalar: rows whose likeliest token is the target, or pairs with a margin above 0
  at::Tensor margin_sum;  // double scalar: of preferences, the reward margins; else undefined
};

struct PassLoss {
  PassResult result;
  at::Tensor dh_ND;  // the gradient of loss_sum / loss_tokens, if asked for
};

// The loss of the batch from h_ND, the normalised hidden states at its loss rows. Preferences (Rafailov et al. 2023) go through the head twice: once for
// the answers' log-probabilities, and once more with each answer's weight in the gradient. Launches only, on a GPU.
// `pause`, which may be null, is called after each chunk of rows.
PassLoss ComputeLoss(const at::Tensor& h_ND, const HeadWeights& head, const PassBatch& batch, const PassOptions& options,
                     bool needs_gradient, const std::function<void()>& pause);

// Rows of logits that a teacher's loss works on at a time, with kTeacherMatrices of them alive.
int64_t TeacherLossRows(int64_t vocabulary);
inline constexpr int64_t kTeacherMatrices = 10;

// -log p of each loss row's target, fp32; 0 of padding.
at::Tensor RowLosses(const at::Tensor& h_ND, const HeadWeights& head, const PassBatch& batch,
                     const std::function<void()>& pause);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_PASS_LOSS_H_
