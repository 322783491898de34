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
    : h_(h), flat_(flat), first_(at::zeros_like(flat->values())), second_(at::zeros_like(flat->values())) {
  for (const Parameter& parameter : parameters) {
    auto part = [&](const at::Tensor& all) {
      return all.narrow(0, flat_->Offset(parameter.leaf), parameter.leaf.numel()).view(parameter.leaf.sizes());
    };
    first_moments_.push_back(part(first_));
    second_moments_.push_back(part(second_));
  }
}

void AdamW::LaunchStep(double learning_rate, const at::Tensor& norm) {
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
  at::Tensor partials = at::empty({cuda::kNormPartials}, options.dtype(at::kDouble)), result = norm;
  at::Tensor values = flat_->values(), gradients = flat_->gradients();
  cuda::GradientNorm(gradients.const_data_ptr<float>(), flat_->count(), partials.mutable_data_ptr<double>(),
                     result.mutable_data_ptr<float>(), CurrentCudaStream());
  cuda::AdamW(settings, norm.const_data_ptr<float>(), values.mutable_data_ptr<float>(),
              gradients.mutable_data_ptr<float>(), first_.mutable_data_ptr<float>(),
              second_.mutable_data_ptr<float>(), flat_->count(), CurrentCudaStream());
}

void AdamW::AtenStep(double learning_rate, double norm) {
  at::Tensor values = flat_->values(), gradients = flat_->gradients();
  if (std::isfinite(norm)) {
    if (*h_.max_gradient_norm > 0 && norm > *h_.max_gradient_norm) {
      gradients.mul_(*h_.max_gradient_norm / (norm + 1e-6));
    }
    at::Tensor count = at::full({}, static_cast<double>(steps_ + 1), values.options());
    at::_fused_adamw_({values}, {gradients}, {first_}, {second_}, {}, {count}, learning_rate, *h_.adam_beta1,
                      *h_.adam_beta2, *h_.weight_decay, *h_.adam_epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }
  gradients.zero_();
}

double AdamW::Step(double learning_rate) {
  at::NoGradGuard no_grad;
  double result = 0;
  if (UsesCudaKernels(flat_->values())) {
    const at::Tensor norm = at::empty({}, flat_->values().options());
    LaunchStep(learning_rate, norm);
    result = norm.item<float>();
  } else {
    result = at::linalg_vector_norm(flat_->gradients(), 2, {}, false, at::kDouble).item<double>();
    AtenStep(learning_rate, result);
  }
  if (std::isfinite(result)) ++steps_;
  return result;
}

}  // namespace attune
