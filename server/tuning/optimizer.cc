#include "server/tuning/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "server/model/kernels/cuda_dispatch.h"

namespace attune {

double LearningRate(const Hyperparameters& h, int64_t step, int64_t total) {
  const int64_t warmup = std::llround(std::ceil(*h.warmup_ratio * total));
  if (step < warmup) return h.learning_rate * (step + 1) / (warmup + 1);
  if (h.schedule == LearningRateSchedule::kConstant) return h.learning_rate;
  const double done = static_cast<double>(step - warmup) / std::max<int64_t>(1, total - warmup);
  if (h.schedule == LearningRateSchedule::kLinear) return h.learning_rate * std::max(0.0, 1 - done);
  return h.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

AdamW::AdamW(const std::vector<Parameter>& parameters, const Hyperparameters& h, const FlatParameters* flat)
    : h_(h), flat_(flat) {
  if (flat_) {
    flat_first_ = at::zeros_like(flat_->values());
    flat_second_ = at::zeros_like(flat_->values());
  }
  for (const Parameter& parameter : parameters) {
    const at::Tensor& leaf = parameter.leaf;
    leaves_.push_back(leaf);
    if (flat_) {
      auto part = [&](const at::Tensor& all) {
        return all.narrow(0, flat_->Offset(leaf), leaf.numel()).view(leaf.sizes());
      };
      first_moments_.push_back(part(flat_first_));
      second_moments_.push_back(part(flat_second_));
      continue;
    }
    first_moments_.push_back(at::zeros_like(leaf.detach()));
    second_moments_.push_back(at::zeros_like(leaf.detach()));
    step_counts_.push_back(at::zeros({}, leaf.options().dtype(at::kFloat).requires_grad(false)));
  }
}

void AdamW::set_steps(int64_t steps) {
  steps_ = steps;
  for (at::Tensor& count : step_counts_) count.fill_(static_cast<double>(steps));
}

double AdamW::FlatStep(double learning_rate) {
  const double t = static_cast<double>(steps_ + 1);
  const cuda::AdamWSettings settings = {
      static_cast<float>(learning_rate),
      static_cast<float>(*h_.adam_beta1),
      static_cast<float>(*h_.adam_beta2),
      static_cast<float>(*h_.adam_epsilon),
      static_cast<float>(*h_.weight_decay),
      static_cast<float>(*h_.max_gradient_norm),
      static_cast<float>(1 - std::pow(*h_.adam_beta1, t)),
      static_cast<float>(1 - std::pow(*h_.adam_beta2, t)),
  };
  const at::TensorOptions options = flat_->values().options();
  at::Tensor partials = at::empty({cuda::kNormPartials}, options.dtype(at::kDouble)), norm = at::empty({}, options);
  at::Tensor values = flat_->values(), gradients = flat_->gradients();
  cuda::GradientNorm(gradients.const_data_ptr<float>(), flat_->count(), partials.mutable_data_ptr<double>(),
                     norm.mutable_data_ptr<float>(), CurrentCudaStream());
  cuda::AdamW(settings, norm.const_data_ptr<float>(), values.mutable_data_ptr<float>(),
              gradients.mutable_data_ptr<float>(), flat_first_.mutable_data_ptr<float>(),
              flat_second_.mutable_data_ptr<float>(), flat_->count(), CurrentCudaStream());
  const double result = norm.item<float>();
  if (std::isfinite(result)) ++steps_;
  return result;
}

double AdamW::Step(double learning_rate) {
  at::NoGradGuard no_grad;
  if (flat_) return FlatStep(learning_rate);
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
