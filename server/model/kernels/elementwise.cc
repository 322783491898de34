#include "server/model/kernels/elementwise.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "server/model/kernels/fast_math.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool UsesLoops(const Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

// Rows a thread takes at least, so that small inputs stay on one thread.
int64_t Grain(int64_t columns) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)); }

Tensor RmsNormForward(const Tensor& x, const Tensor& w, double epsilon, Tensor* inverse_rms) {
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
void RmsNormBackwardRows(const Tensor& x, const Tensor& w, const Tensor& inverse_rms, const Tensor& dy, Tensor* dx) {
  const int64_t rows = x.size(0), columns = x.size(1);
  const float* xp = x.const_data_ptr<float>();
  const float* wp = w.const_data_ptr<float>();
  const float* rp = inverse_rms.const_data_ptr<float>();
  const float* gp = dy.const_data_ptr<float>();
  float* dp = dx->mutable_data_ptr<float>();
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
}

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w, double epsilon) {
    Tensor inverse_rms;
    Tensor y = RmsNormForward(x, w, epsilon, &inverse_rms);
    context->save_for_backward({x, w, inverse_rms});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &inverse_rms = saved[2];
    Tensor dy = grads[0].contiguous();
    Tensor dx, dw;
    if (UsesLoops(x)) {
      dx = at::empty_like(x);
      RmsNormBackwardRows(x, w, inverse_rms, dy, &dx);
      if (context->needs_input_grad(1)) dw = (dy * x * inverse_rms.unsqueeze(-1)).sum(0);
    } else {
      Tensor r = inverse_rms.unsqueeze(-1);
      Tensor xhat = x.to(at::kFloat) * r;
      Tensor g = dy.to(at::kFloat) * w.to(at::kFloat);
      dx = (r * (g - xhat * (g * xhat).mean(-1, true))).to(x.scalar_type());
      if (context->needs_input_grad(1)) dw = (dy.to(at::kFloat) * xhat).sum(0).to(w.scalar_type());
    }
    return {dx, dw, Tensor()};
  }
};

Tensor SwiGluForward(const Tensor& gate_up) {
  const int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
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

Tensor SwiGluBackward(const Tensor& gate_up, const Tensor& dy) {
  const int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
  Tensor grad = at::empty_like(gate_up);
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
    return SwiGluForward(gate_up);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return {SwiGluBackward(context->get_saved_variables()[0], grads[0].contiguous())};
  }
};

// A counter-based generator: 32 mixed bits for element `index` of stream `seed`.
inline uint32_t MixedBits(uint32_t index, uint32_t seed) {
  uint32_t h = index * 0x9E3779B9u + seed;
  h ^= h >> 16;
  h *= 0x85EBCA6Bu;
  h ^= h >> 13;
  h *= 0xC2B2AE35u;
  return h ^ (h >> 16);
}

}  // namespace

at::Tensor RmsNorm(const Tensor& x_TD, const Tensor& w_D, double epsilon) {
  if (at::GradMode::is_enabled() && (x_TD.requires_grad() || w_D.requires_grad())) {
    return RmsNormFunction::apply(x_TD, w_D, epsilon);
  }
  Tensor inverse_rms;
  return RmsNormForward(x_TD, w_D, epsilon, &inverse_rms);
}

at::Tensor SwiGlu(const Tensor& gate_up_T2I) {
  if (at::GradMode::is_enabled() && gate_up_T2I.requires_grad()) return SwiGluFunction::apply(gate_up_T2I);
  return SwiGluForward(gate_up_T2I);
}

at::Tensor DropoutWithSeed(const Tensor& x, double p, uint64_t seed) {
  const float scale = static_cast<float>(1.0 / (1.0 - p));
  if (x.is_cuda()) {
    // The device's own generator, in one kernel; the hash below takes ten.
    at::Generator generator = at::globalContext().getAcceleratorHooksInterface(at::kCUDA).getNewGenerator(
        x.device().index());
    generator.set_current_seed(seed);
    const Tensor keep = at::empty(x.sizes(), x.options().dtype(at::kBool)).bernoulli_(1.0 - p, generator);
    return at::where(keep, x * scale, at::zeros({}, x.options()));
  }
  const uint32_t stream = static_cast<uint32_t>(seed ^ (seed >> 32));
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

}  // namespace attune
