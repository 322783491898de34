#include "server/tuning/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

namespace attune {

double LearningRate(const Hyperparameters& h, int64_t step, int64_t total) {
  const int64_t warmup = std::llround(std::ceil(*h.warmup_ratio * total));
  if (step < warmup) return h.learning_rate * (step + 1) / (warmup + 1);
  if (h.schedule == LearningRateSchedule::kConstant) return h.learning_rate;
  const double done = static_cast<double>(step - warmup) / std::max<int64_t>(1, total - warmup);
  if (h.schedule == LearningRateSchedule::kLinear) return h.learning_rate * std::max(0.0, 1 - done);
  return h.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

AdamW::AdamW(const std::vector<Parameter>& parameters, const Hyperparameters& h) : h_(h) {
  for (const Parameter& parameter : parameters) {
    leaves_.push_back(parameter.leaf);
    first_moments_.push_back(at::zeros_like(parameter.leaf.detach()));
    second_moments_.push_back(at::zeros_like(parameter.leaf.detach()));
    step_counts_.push_back(at::zeros({}, parameter.leaf.options().dtype(at::kFloat).requires_grad(false)));
  }
}

void AdamW::set_steps(int64_t steps) {
  steps_ = steps;
  for (at::Tensor& count : step_counts_) count.fill_(static_cast<double>(steps));
}

double AdamW::Step(double learning_rate) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> leaves, gradients, first, second, counts;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    if (!leaves_[i].grad().defined()) continue;  // e.g. a layer that no loss reaches
    leaves.push_back(leaves_[i].detach());
    gradients.push_back(leaves_[i].grad());
    first.push_back(first_moments_[i]);
    second.push_back(second_moments_[i]);
    counts.push_back(step_counts_[i]);
  }
  if (leaves.empty()) return 0;
  const double norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients))).item<double>();
  if (std::isfinite(norm)) {
    if (*h_.max_gradient_norm > 0 && norm > *h_.max_gradient_norm) {
      at::_foreach_mul_(gradients, *h_.max_gradient_norm / (norm + 1e-6));
    }
    at::_foreach_add_(counts, 1);
    at::_fused_adamw_(leaves, gradients, first, second, {}, counts, learning_rate, *h_.adam_beta1, *h_.adam_beta2,
                      *h_.weight_decay, *h_.adam_epsilon, /*amsgrad=*/false, /*maximize=*/false);
    ++steps_;
  }
  for (at::Tensor& leaf : leaves_) leaf.mutable_grad().reset();
  return norm;
}

}  // namespace attune
