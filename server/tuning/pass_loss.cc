#include "server/tuning/pass_loss.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace attune {
namespace {

using at::Tensor;

// Each pair's loss, and by how much it falls when the chosen answer's log-likelihood grows over the rejected one's.
struct PreferenceLoss {
  PassResult result;
  Tensor weights_P;  // double
};

PreferenceLoss LossOfPairs(const Tensor& losses_N, const PreferenceRows& rows, const PassOptions& options) {
  const double beta = options.beta, smoothing = options.label_smoothing;
  // Not a product: the order of its sums may vary.
  const Tensor margins_P = (rows.signs_PN * -losses_N.to(at::kDouble).unsqueeze(0)).sum(1) - rows.margins_P;
  const Tensor rewards_P = beta * margins_P * rows.is_pair_P;
  const Tensor loss_P = (smoothing - 1) * at::log_sigmoid(rewards_P) - smoothing * at::log_sigmoid(-rewards_P);
  const Tensor weights_P = beta * ((1 - smoothing) * at::sigmoid(-rewards_P) - smoothing * at::sigmoid(rewards_P));
  return {{(loss_P * rows.is_pair_P).sum(), rewards_P.gt(0).sum(), rewards_P.sum()}, weights_P * rows.is_pair_P};
}

PassLoss PreferencesLoss(const Tensor& h, const HeadWeights& head, const PassBatch& batch, const PassOptions& options,
                         bool needs_gradient, const std::function<void()>& pause) {
  const PreferenceRows& rows = batch.preferences;
  const PreferenceLoss pairs = LossOfPairs(RowLosses(h, head, batch, pause), rows, options);
  if (!needs_gradient) return {pairs.result, Tensor()};
  const Tensor scale_N = (rows.signs_PN * (pairs.weights_P / batch.loss_tokens.to(at::kDouble)).unsqueeze(1)).sum(0);
  const Tensor scale = scale_N.to(at::kFloat).contiguous();
  return {pairs.result, LinearCrossEntropySums(h, head, batch.targets_N, scale, true, pause).dh_ND};
}

// A chunk of rows' logits, which become the gradient of the rows' losses, and the losses.
struct TeacherChunk {
  Tensor losses_N, correct_N;
};

// With q the student's probabilities at the temperature, p the teacher's over its likeliest tokens S, p_R and q_R what
// is left for the others: the loss is (1 - w) -log softmax(z)[target] + w T^2 (sum_S p log(p / q) + p_R log(p_R /
// q_R)), and its gradient (1 - w) (softmax(z) - onehot) + w T (q - t), where t is p in S and p_R q / q_R elsewhere.
TeacherChunk LossOfChunk(Tensor* logits_NV, const Tensor& targets_N, const TeacherRows& teacher,
                         const PassOptions& options, double softcap) {
  const double w = options.teacher_weight, t = options.temperature;
  Tensor z = logits_NV->to(at::kFloat), slope;
  if (softcap > 0) {
    const Tensor capped = (z / softcap).tanh();
    slope = 1 - capped.square();
    z = capped * softcap;
  }
  const Tensor index = targets_N.clamp_min(0).unsqueeze(1);
  const Tensor counts = targets_N.ge(0);
  const Tensor log_p = at::log_softmax(z, 1);
  const Tensor log_q = t == 1 ? log_p : at::log_softmax(z / t, 1);
  const Tensor hard = -log_p.gather(1, index).squeeze(1);
  const Tensor correct = hard.le(-log_p.amax(1)).logical_and(counts);

  const Tensor known = teacher.log_probabilities_NK.exp(), log_q_known = log_q.gather(1, teacher.ids_NK);
  // What is left, of at least the least that is no zero, so that its logarithm is a number.
  constexpr double kLeast = 1e-30;
  const Tensor q = log_q.exp();
  const Tensor others = q.scatter(1, teacher.ids_NK, 0);  // q outside S
  const Tensor p_rest = (1 - known.sum(1)).clamp_min(0), q_rest = others.sum(1).clamp_min(kLeast);
  const Tensor rest = p_rest * (p_rest.clamp_min(kLeast).log() - q_rest.log());
  const Tensor soft = (known * (teacher.log_probabilities_NK - log_q_known)).sum(1) + rest;

  Tensor target = others * (p_rest / q_rest).unsqueeze(1);
  target.scatter_(1, teacher.ids_NK, known);
  Tensor gradient = log_p.exp();
  gradient.scatter_add_(1, index, at::full_like(index, -1, gradient.options()));
  gradient = (1 - w) * gradient + (w * t) * (q - target);
  if (softcap > 0) gradient = gradient * slope;
  *logits_NV = gradient * counts.unsqueeze(1);
  return {((1 - w) * hard + (w * t * t) * soft).masked_fill(counts.logical_not(), 0), correct};
}

PassLoss TeacherLoss(const Tensor& h, const HeadWeights& head, const PassBatch& batch, const PassOptions& options,
                     bool needs_gradient, const std::function<void()>& pause) {
  const int64_t rows = h.size(0), chunk = TeacherLossRows(head.w_VD.size(0));
  const at::TensorOptions on_device = h.options();
  PassLoss loss{{at::zeros({}, on_device.dtype(at::kDouble)), at::zeros({}, on_device.dtype(at::kLong)), Tensor()},
                needs_gradient ? at::empty_like(h) : Tensor()};
  const Tensor scale = batch.loss_tokens.to(at::kFloat).reciprocal();
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t n = std::min(chunk, rows - begin);
    Tensor logits = HeadLogits(head, h, begin, n);
    const TeacherRows teacher{batch.teacher.ids_NK.narrow(0, begin, n),
                              batch.teacher.log_probabilities_NK.narrow(0, begin, n)};
    const TeacherChunk found = LossOfChunk(&logits, batch.targets_N.narrow(0, begin, n), teacher, options, head.softcap);
    loss.result.loss_sum += found.losses_N.sum(at::kDouble);
    loss.result.correct += found.correct_N.sum();
    if (needs_gradient) HeadBackward(head, (logits * scale).to(h.scalar_type()), h, begin, loss.dh_ND);
    if (pause) pause();
  }
  return loss;
}

}  // namespace

int64_t TeacherLossRows(int64_t vocabulary) {
  constexpr int64_t kElements = int64_t{1} << 24, kMost = 1024;
  return std::max<int64_t>(1, std::min(kMost, kElements / vocabulary));
}

PassOptions PassOptionsOf(const JobSpec& spec) {
  PassOptions options;
  options.noise_alpha = spec.hyperparameters.neftune_noise_alpha;
  if (spec.dpo) {
    if (spec.dpo->beta > 0) options.beta = spec.dpo->beta;
    options.label_smoothing = spec.dpo->label_smoothing;
  }
  if (spec.distillation) {
    if (spec.distillation->temperature > 0) options.temperature = spec.distillation->temperature;
    options.teacher_weight = spec.distillation->weight.value_or(options.teacher_weight);
  }
  return options;
}

Tensor RowLosses(const Tensor& h, const HeadWeights& head, const PassBatch& batch, const std::function<void()>& pause) {
  const Tensor ones = at::ones(batch.targets_N.sizes(), h.options().dtype(at::kFloat));
  return LinearCrossEntropySums(h, head, batch.targets_N, ones, false, pause).losses_N;
}

PassLoss ComputeLoss(const Tensor& h, const HeadWeights& head, const PassBatch& batch, const PassOptions& options,
                     bool needs_gradient, const std::function<void()>& pause) {
  if (batch.preferences.signs_PN.defined()) {
    return PreferencesLoss(h, head, batch, options, needs_gradient, pause);
  }
  if (batch.teacher.ids_NK.defined()) {
    return TeacherLoss(h, head, batch, options, needs_gradient, pause);
  }
  const JointRows& joint = batch.joint;
  const Tensor scale = !needs_gradient            ? Tensor()
                       : joint.scales_N.defined() ? joint.scales_N
                                                  : batch.loss_tokens.to(at::kFloat).reciprocal();
  const CrossEntropySums sums = LinearCrossEntropySums(h, head, batch.targets_N, scale, needs_gradient, pause);
  PassLoss loss{{sums.loss_sum, sums.correct, Tensor()}, sums.dh_ND};
  if (needs_gradient && joint.scales_N.defined()) {
    const Tensor losses = sums.losses_N.to(at::kDouble).unsqueeze(1).expand_as(joint.foreign_NP);
    loss.result.loss_sum = losses.masked_fill(joint.foreign_NP, 0).sum(0);
  }
  return loss;
}

}  // namespace attune
