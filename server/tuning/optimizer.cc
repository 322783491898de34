#include "server/tuning/optimizer.h"

#include <ATen/ATen.h>

#include <algorithm>
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
    : h_(h),
      flat_(flat),
      moments_(h.optimizer_state == "int8" ? Make8BitMoments(flat) : MakeMoments(parameters, flat)) {
  for (const Parameter& parameter : parameters) {
    const int64_t count = parameter.leaf.numel();
    if (runs_.empty() || runs_.back().rate != parameter.rate) runs_.push_back({flat->Offset(parameter.leaf), 0, parameter.rate});
    runs_.back().count += count;
  }
}

namespace {

// Piece by piece, since ATen copies to fp64 what it sums in fp64.
at::Tensor NormInPieces(const at::Tensor& gradients) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  at::Tensor sum = at::zeros({}, gradients.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < gradients.numel(); begin += kPiece) {
    const at::Tensor piece = gradients.narrow(0, begin, std::min(kPiece, gradients.numel() - begin));
    sum.add_(at::linalg_vector_norm(piece, 2, {}, false, at::kDouble).square_());
  }
  return sum.sqrt_().to(at::kFloat);
}

}  // namespace

at::Tensor AdamW::GradientNorm() const {
  const at::Tensor& gradients = flat_->gradients();
  if (!UsesCudaKernels(gradients)) return NormInPieces(gradients);
  const at::TensorOptions options = gradients.options();
  at::Tensor partials = at::empty({cuda::kNormPartials}, options.dtype(at::kDouble)), norm = at::empty({}, options);
  cuda::GradientNorm(gradients.const_data_ptr<float>(), flat_->count(), partials.mutable_data_ptr<double>(),
                     norm.mutable_data_ptr<float>(), CurrentCudaStream());
  return norm;
}

double AdamW::Step(double learning_rate) {
  at::NoGradGuard no_grad;
  const double t = static_cast<double>(steps_ + 1);
  cuda::AdamWSettings settings = {
      static_cast<float>(learning_rate),
      static_cast<float>(*h_.adam_beta1),
      static_cast<float>(*h_.adam_beta2),
      static_cast<float>(*h_.adam_epsilon),
      static_cast<float>(*h_.weight_decay),
      static_cast<float>(*h_.max_gradient_norm),
      static_cast<float>(1 - std::pow(*h_.adam_beta1, t)),
      static_cast<float>(1 - std::pow(*h_.adam_beta2, t)),
  };
  const at::Tensor norm = GradientNorm();
  for (const Run& run : runs_) {
    settings.learning_rate = static_cast<float>(learning_rate * run.rate);
    moments_->Update(settings, norm, run.first, run.count);
  }
  const double result = norm.item<float>();
  if (std::isfinite(result)) ++steps_;
  return result;
}

}  // namespace attune
