#include "server/model/kernels/elementwise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "server/model/kernels/cuda/mixed_bits.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/fast_math.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool UsesLoops(const Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

// Rows a thread takes at least, so that small inputs stay on one thread.
int64_t Grain(int64_t columns) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)); }

Tensor LaunchRmsNorm(const Tensor& x, const Tensor& delta, const Tensor& w, double epsilon, Tensor* sum,
                     Tensor* inverse_rms) {
  Tensor y = at::empty_like(x);
  *inverse_rms = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  if (delta.defined()) *sum = at::empty_like(x);
  cuda::RmsNormForward(CudaTypeOf(x), x.const_data_ptr(), delta.defined() ? delta.const_data_ptr() : nullptr,
                       w.const_data_ptr(), epsilon, delta.defined() ? sum->mutable_data_ptr() : nullptr,
                       y.mutable_data_ptr(), inverse_rms->mutable_data_ptr<float>(), x.size(0), x.size(1),
                       CurrentCudaStream());
  return y;
}

Tensor RmsNormRows(const Tensor& x, const Tensor& w, double epsilon, Tensor* inverse_rms) {
  if (UsesCudaKernels(x)) return LaunchRmsNorm(x, Tensor(), w, epsilon, nullptr, inverse_rms);
  if (!UsesLoops(x)) {
    Tensor x32 = x.to(at::kFloat);
    *inverse_rms = (x32.square().mean(-1) + epsilon).rsqrt();
    return (x32 * inverse_rms->unsqueeze(-1)).to(x.scalar_type()) * w;
  }
  const int64_t rows = x.size(0), columns = x.size(1);
  Tensor y = at::empty_like(x);
  *inverse_rms = at::empty({rows}, x.options());
  const float* xp = x.const_data_ptr<float>();
  const float* wp = w.const_data_ptr<float>();
  float* yp = y.mutable_data_ptr<float>();
  float* rp = inverse_rms->mutable_data_ptr<float>();
  at::parallel_for(0, rows, Grain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* xr = xp + t * columns;
      float* yr = yp + t * columns;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < columns; ++i) sum += xr[i] * xr[i];
      const float r = 1.0f / std::sqrt(sum / columns + static_cast<float>(epsilon));
      rp[t] = r;
      for (int64_t i = 0; i < columns; ++i) yr[i] = xr[i] * r * wp[i];
    }
  });
  return y;
}

// dx = r * (g - xhat * mean(g * xhat)) with g = dy * w and xhat = x * r.
Tensor RmsNormBackwardRows(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& inverse_rms) {
  Tensor dx = at::empty_like(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  const float* xp = x.const_data_ptr<float>();
  const float* wp = w.const_data_ptr<float>();
  const float* rp = inverse_rms.const_data_ptr<float>();
  const float* gp = dy.const_data_ptr<float>();
  float* dp = dx.mutable_data_ptr<float>();
  at::parallel_for(0, rows, Grain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *xr = xp + t * columns, *gr = gp + t * columns;
      float* dr = dp + t * columns;
      const float r = rp[t];
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < columns; ++i) dot += gr[i] * wp[i] * xr[i];
      const float k = dot * r * r / columns;
      for (int64_t i = 0; i < columns; ++i) dr[i] = r * (gr[i] * wp[i] - xr[i] * k);
    }
  });
  return dx;
}

Tensor RmsNormBackwardAten(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& inverse_rms) {
  Tensor r = inverse_rms.unsqueeze(-1);
  Tensor xhat = x.to(at::kFloat) * r;
  Tensor g = dy.to(at::kFloat) * w.to(at::kFloat);
  return (r * (g - xhat * (g * xhat).mean(-1, true))).to(x.scalar_type());
}

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w, double epsilon) {
    Tensor inverse_rms;
    Tensor y = RmsNormRows(x, w, epsilon, &inverse_rms);
    context->save_for_backward({x, w, inverse_rms});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &inverse_rms = saved[2];
    Tensor dy = grads[0].contiguous();
    Tensor dx = RmsNormBackward(dy, x, w, inverse_rms, Tensor()), dw;
    if (context->needs_input_grad(1)) {
      dw = (dy.to(at::kFloat) * x.to(at::kFloat) * inverse_rms.unsqueeze(-1)).sum(0).to(w.scalar_type());
    }
    return {dx, dw, Tensor()};
  }
};

Tensor SwiGluRows(const Tensor& gate_up) {
  const int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
  if (UsesCudaKernels(gate_up)) {
    Tensor out = at::empty({rows, inner}, gate_up.options());
    cuda::SwiGluForward(CudaTypeOf(gate_up), gate_up.const_data_ptr(), out.mutable_data_ptr(), rows, inner,
                        CurrentCudaStream());
    return out;
  }
  if (!UsesLoops(gate_up)) {
    return at::silu(gate_up.narrow(1, 0, inner)) * gate_up.narrow(1, inner, inner);
  }
  Tensor out = at::empty({rows, inner}, gate_up.options());
  const float* in = gate_up.const_data_ptr<float>();
  float* op = out.mutable_data_ptr<float>();
  at::parallel_for(0, rows, Grain(inner), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *g = in + t * 2 * inner, *u = g + inner;
      float* o = op + t * inner;
      for (int64_t i = 0; i < inner; ++i) o[i] = g[i] / (1.0f + FastExp(-g[i])) * u[i];
    }
  });
  return out;
}

Tensor SwiGluBackwardRows(const Tensor& gate_up, const Tensor& dy) {
  const int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
  Tensor grad = at::empty_like(gate_up);
  if (UsesCudaKernels(gate_up)) {
    cuda::SwiGluBackward(CudaTypeOf(gate_up), gate_up.const_data_ptr(), dy.const_data_ptr(), grad.mutable_data_ptr(),
                         rows, inner, CurrentCudaStream());
    return grad;
  }
  if (!UsesLoops(gate_up)) {
    Tensor g = gate_up.narrow(1, 0, inner).to(at::kFloat), u = gate_up.narrow(1, inner, inner).to(at::kFloat);
    Tensor d = dy.to(at::kFloat), s = at::sigmoid(g);
    grad.narrow(1, 0, inner).copy_(d * u * s * (1 + g * (1 - s)));
    grad.narrow(1, inner, inner).copy_(d * g * s);
    return grad;
  }
  const float* in = gate_up.const_data_ptr<float>();
  const float* dp = dy.const_data_ptr<float>();
  float* op = grad.mutable_data_ptr<float>();
  at::parallel_for(0, rows, Grain(inner), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *g = in + t * 2 * inner, *u = g + inner, *d = dp + t * inner;
      float *dg = op + t * 2 * inner, *du = dg + inner;
      for (int64_t i = 0; i < inner; ++i) {
        const float s = 1.0f / (1.0f + FastExp(-g[i]));
        dg[i] = d[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
        du[i] = d[i] * g[i] * s;
      }
    }
  });
  return grad;
}

class SwiGluFunction : public torch::autograd::Function<SwiGluFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& gate_up) {
    context->save_for_backward({gate_up});
    return SwiGluRows(gate_up);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return {SwiGluBackwardRows(context->get_saved_variables()[0], grads[0].contiguous())};
  }
};

Tensor LaunchDropout(const Tensor& x, double p, const int64_t* step_seed, uint32_t seed, const Tensor& addend) {
  Tensor y = at::empty_like(x);
  cuda::Dropout(CudaTypeOf(x), x.const_data_ptr(), addend.defined() ? addend.const_data_ptr() : nullptr, p, step_seed,
                seed, y.mutable_data_ptr(), x.numel(), CurrentCudaStream());
  return y;
}

}  // namespace

at::Tensor RmsNorm(const Tensor& x_TD, const Tensor& w_D, double epsilon) {
  if (at::GradMode::is_enabled() && (x_TD.requires_grad() || w_D.requires_grad())) {
    return RmsNormFunction::apply(x_TD, w_D, epsilon);
  }
  Tensor inverse_rms;
  return RmsNormRows(x_TD, w_D, epsilon, &inverse_rms);
}

at::Tensor RmsNormForward(const Tensor& x_TD, const Tensor& w_D, double epsilon, Tensor* inverse_rms_T) {
  return RmsNormRows(x_TD, w_D, epsilon, inverse_rms_T);
}

at::Tensor AddRmsNormForward(const Tensor& x_TD, const Tensor& delta_TD, const Tensor& w_D, double epsilon,
                             Tensor* sum_TD, Tensor* inverse_rms_T) {
  if (UsesCudaKernels(x_TD)) return LaunchRmsNorm(x_TD, delta_TD, w_D, epsilon, sum_TD, inverse_rms_T);
  *sum_TD = x_TD + delta_TD;
  return RmsNormRows(*sum_TD, w_D, epsilon, inverse_rms_T);
}

at::Tensor RmsNormBackward(const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D, const Tensor& inverse_rms_T,
                           const Tensor& residual_TD) {
  if (UsesCudaKernels(x_TD)) {
    Tensor dx = at::empty_like(x_TD);
    cuda::RmsNormBackward(CudaTypeOf(x_TD), dy_TD.const_data_ptr(), x_TD.const_data_ptr(), w_D.const_data_ptr(),
                          inverse_rms_T.const_data_ptr<float>(),
                          residual_TD.defined() ? residual_TD.const_data_ptr() : nullptr, dx.mutable_data_ptr(),
                          x_TD.size(0), x_TD.size(1), CurrentCudaStream());
    return dx;
  }
  Tensor dx = UsesLoops(x_TD) ? RmsNormBackwardRows(dy_TD, x_TD, w_D, inverse_rms_T)
                              : RmsNormBackwardAten(dy_TD, x_TD, w_D, inverse_rms_T);
  return residual_TD.defined() ? dx.add_(residual_TD) : dx;
}

at::Tensor SwiGlu(const Tensor& gate_up_T2I) {
  if (at::GradMode::is_enabled() && gate_up_T2I.requires_grad()) return SwiGluFunction::apply(gate_up_T2I);
  return SwiGluRows(gate_up_T2I);
}

at::Tensor SwiGluForward(const Tensor& gate_up_T2I) { return SwiGluRows(gate_up_T2I); }
at::Tensor SwiGluBackward(const Tensor& gate_up_T2I, const Tensor& dy_TI) {
  return SwiGluBackwardRows(gate_up_T2I, dy_TI);
}

at::Tensor DropoutWithSeed(const Tensor& x, double p, uint64_t seed) {
  const float scale = static_cast<float>(1.0 / (1.0 - p));
  const uint32_t stream = static_cast<uint32_t>(seed ^ (seed >> 32));
  if (UsesCudaKernels(x)) return LaunchDropout(x, p, nullptr, stream, Tensor());
  if (!UsesLoops(x)) {
    // The same hash in 64-bit integer tensors, reduced to 32 bits after each step.
    Tensor h = at::arange(x.numel(), x.options().dtype(at::kLong)) * 0x9E3779B9LL;
    auto cut = [](const Tensor& t) { return t.bitwise_and(0xFFFFFFFFLL); };
    h = cut(h + static_cast<int64_t>(stream));
    h = h.bitwise_xor(h.bitwise_right_shift(16));
    h = cut(h * 0x85EBCA6BLL);
    h = h.bitwise_xor(h.bitwise_right_shift(13));
    h = cut(h * 0xC2B2AE35LL);
    h = h.bitwise_xor(h.bitwise_right_shift(16));
    Tensor keep = h.ge(static_cast<int64_t>(p * 4294967296.0)).view(x.sizes());
    return x * keep.to(x.scalar_type()) * scale;
  }
  const uint32_t threshold = static_cast<uint32_t>(p * 4294967296.0);
  Tensor out = at::empty_like(x);
  const float* in = x.const_data_ptr<float>();
  float* op = out.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      op[i] = MixedBits(static_cast<uint32_t>(i), stream) >= threshold ? in[i] * scale : 0.0f;
    }
  });
  return out;
}

at::Tensor DropoutOfStep(const Tensor& x, double p, const StepSeed& seed, uint32_t which, const Tensor& addend) {
  if (seed.on_device.defined()) {
    return LaunchDropout(x, p, seed.on_device.const_data_ptr<int64_t>(), which, addend);
  }
  Tensor y = DropoutWithSeed(x, p, DropoutSeed(seed.value, which));
  return addend.defined() ? y.add_(addend) : y;
}

}  // namespace attune
