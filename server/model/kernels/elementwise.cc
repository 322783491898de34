#include "server/model/kernels/elementwise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "server/model/kernels/cuda/mixed_bits.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/element.h"
#include "server/model/kernels/fast_math.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

// y, r and, with `delta`, sum = x + delta, of rows [begin, end).
template <typename T>
void NormLoops(const T* x, const T* delta, const T* w, float epsilon, T* sum, T* y, float* r, int64_t columns,
               int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const T* xr = x + t * columns;
    T* yr = y + t * columns;
    if (delta) {
      const T* dr = delta + t * columns;
      T* sr = sum + t * columns;
      for (int64_t i = 0; i < columns; ++i) Store(ToFloat(xr[i]) + ToFloat(dr[i]), sr + i);
      xr = sr;
    }
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < columns; ++i) squares += ToFloat(xr[i]) * ToFloat(xr[i]);
    r[t] = 1.0f / std::sqrt(squares / columns + epsilon);
    for (int64_t i = 0; i < columns; ++i) Store(ToFloat(xr[i]) * r[t] * ToFloat(w[i]), yr + i);
  }
}

Tensor RmsNormRows(const Tensor& x, const Tensor& delta, const Tensor& w, double epsilon, Tensor* sum,
                   Tensor* inverse_rms) {
  if (UsesCudaKernels(x)) return LaunchRmsNorm(x, delta, w, epsilon, sum, inverse_rms);
  if (!UsesCpuLoops(x)) {
    if (delta.defined()) *sum = x + delta;
    Tensor x32 = (delta.defined() ? *sum : x).to(at::kFloat);
    *inverse_rms = (x32.square().mean(-1) + epsilon).rsqrt();
    return (x32 * inverse_rms->unsqueeze(-1)).to(x.scalar_type()) * w;
  }
  const int64_t rows = x.size(0), columns = x.size(1);
  Tensor y = at::empty_like(x);
  *inverse_rms = at::empty({rows}, x.options().dtype(at::kFloat));
  if (delta.defined()) *sum = at::empty_like(x);
  WithElementOf(x, [&]<typename T>() {
    at::parallel_for(0, rows, Grain(columns), [&](int64_t begin, int64_t end) {
      NormLoops(Elements<T>(x), delta.defined() ? Elements<T>(delta) : nullptr, Elements<T>(w),
                static_cast<float>(epsilon), delta.defined() ? MutableElements<T>(*sum) : nullptr,
                MutableElements<T>(y), inverse_rms->mutable_data_ptr<float>(), columns, begin, end);
    });
  });
  return y;
}

// dx = r * (g - xhat * mean(g * xhat)) with g = dy * w and xhat = x * r, plus `residual`.
template <typename T>
void NormBackwardLoops(const T* dy, const T* x, const T* w, const float* inverse_rms, const T* residual, T* dx,
                       int64_t columns, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const T *xr = x + t * columns, *gr = dy + t * columns;
    T* out = dx + t * columns;
    const float r = inverse_rms[t];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < columns; ++i) dot += ToFloat(gr[i]) * ToFloat(w[i]) * ToFloat(xr[i]);
    const float k = dot * r * r / columns;
    if (residual) {
      const T* er = residual + t * columns;
      for (int64_t i = 0; i < columns; ++i) {
        Store(ToFloat(er[i]) + r * (ToFloat(gr[i]) * ToFloat(w[i]) - ToFloat(xr[i]) * k), out + i);
      }
    } else {
      for (int64_t i = 0; i < columns; ++i) Store(r * (ToFloat(gr[i]) * ToFloat(w[i]) - ToFloat(xr[i]) * k), out + i);
    }
  }
}

Tensor RmsNormBackwardRows(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& inverse_rms,
                           const Tensor& residual) {
  Tensor dx = at::empty_like(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  WithElementOf(x, [&]<typename T>() {
    at::parallel_for(0, rows, Grain(columns), [&](int64_t begin, int64_t end) {
      NormBackwardLoops(Elements<T>(dy), Elements<T>(x), Elements<T>(w), inverse_rms.const_data_ptr<float>(),
                        residual.defined() ? Elements<T>(residual) : nullptr, MutableElements<T>(dx), columns, begin,
                        end);
    });
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
    Tensor y = RmsNormRows(x, Tensor(), w, epsilon, nullptr, &inverse_rms);
    context->save_for_backward({x, w, inverse_rms});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &inverse_rms = saved[2];
    Tensor dy = grads[0].contiguous();
    Tensor dw;
    if (context->needs_input_grad(1)) dw = at::zeros({x.size(1)}, x.options().dtype(at::kFloat));
    Tensor dx = RmsNormBackward(dy, x, w, inverse_rms, Tensor(), dw);
    if (dw.defined()) dw = dw.to(w.scalar_type());
    return {dx, dw, Tensor()};
  }
};

// A gate's activation and its derivative.
struct Gate {
  float value, slope;
};
template <Activation activation>
Gate GateOf(float x) {
  if constexpr (activation == Activation::kSilu) {
    const float e = FastExp(-x), s = 1.0f / (1.0f + e);
    return {x / (1.0f + e), s * (1.0f + x * (1.0f - s))};
  }
  // x (1 + tanh(z)) / 2, z = sqrt(2 / pi) (x + 0.044715 x^3); 1 + tanh(z) = 2 / (1 + exp(-2z)).
  constexpr float kRoot = 0.7978845608028654f, kCube = 0.044715f;
  const float z = kRoot * (x + kCube * x * x * x);
  const float s = 1.0f / (1.0f + FastExp(-2.0f * z));
  return {x * s, s + 2.0f * x * s * (1.0f - s) * kRoot * (1.0f + 3.0f * kCube * x * x)};
}

// Calls body.operator()<activation>().
template <typename Body>
void WithActivation(Activation activation, const Body& body) {
  if (activation == Activation::kSilu) {
    body.template operator()<Activation::kSilu>();
  } else {
    body.template operator()<Activation::kGeluTanh>();
  }
}

// The GPU has a kernel of its own for SwiGLU.
bool UsesSwiGluKernel(const Tensor& x, Activation activation) {
  return UsesCudaKernels(x) && activation == Activation::kSilu;
}

Tensor GatedUnitRows(const Tensor& gate_up, Activation activation) {
  const int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
  if (UsesSwiGluKernel(gate_up, activation)) {
    Tensor out = at::empty({rows, inner}, gate_up.options());
    cuda::SwiGluForward(CudaTypeOf(gate_up), gate_up.const_data_ptr(), out.mutable_data_ptr(), rows, inner,
                        CurrentCudaStream());
    return out;
  }
  if (!UsesCpuLoops(gate_up)) {
    const Tensor gate = gate_up.narrow(1, 0, inner), up = gate_up.narrow(1, inner, inner);
    return (activation == Activation::kSilu ? at::silu(gate) : at::gelu(gate, "tanh")) * up;
  }
  Tensor out = at::empty({rows, inner}, gate_up.options());
  WithElementOf(gate_up, [&]<typename T>() {
    WithActivation(activation, [&]<Activation kActivation>() {
      at::parallel_for(0, rows, Grain(inner), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const T *g = Elements<T>(gate_up) + t * 2 * inner, *u = g + inner;
          T* o = MutableElements<T>(out) + t * inner;
          for (int64_t i = 0; i < inner; ++i) Store(GateOf<kActivation>(ToFloat(g[i])).value * ToFloat(u[i]), o + i);
        }
      });
    });
  });
  return out;
}

Tensor GatedUnitBackwardRows(const Tensor& gate_up, const Tensor& dy, Activation activation) {
  const int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
  Tensor grad = at::empty_like(gate_up);
  if (UsesSwiGluKernel(gate_up, activation)) {
    cuda::SwiGluBackward(CudaTypeOf(gate_up), gate_up.const_data_ptr(), dy.const_data_ptr(), grad.mutable_data_ptr(),
                         rows, inner, CurrentCudaStream());
    return grad;
  }
  if (!UsesCpuLoops(gate_up)) {
    Tensor g = gate_up.narrow(1, 0, inner).to(at::kFloat), u = gate_up.narrow(1, inner, inner).to(at::kFloat);
    Tensor d = dy.to(at::kFloat), s = at::sigmoid(g);
    if (activation == Activation::kGeluTanh) {
      grad.narrow(1, 0, inner).copy_(at::gelu_backward(d * u, g, "tanh"));
      grad.narrow(1, inner, inner).copy_(d * at::gelu(g, "tanh"));
      return grad;
    }
    grad.narrow(1, 0, inner).copy_(d * u * s * (1 + g * (1 - s)));
    grad.narrow(1, inner, inner).copy_(d * g * s);
    return grad;
  }
  WithElementOf(gate_up, [&]<typename T>() {
    WithActivation(activation, [&]<Activation kActivation>() {
      at::parallel_for(0, rows, Grain(inner), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const T *g = Elements<T>(gate_up) + t * 2 * inner, *u = g + inner, *d = Elements<T>(dy) + t * inner;
          T *dg = MutableElements<T>(grad) + t * 2 * inner, *du = dg + inner;
          for (int64_t i = 0; i < inner; ++i) {
            const float up = ToFloat(u[i]), out = ToFloat(d[i]);
            const Gate gate = GateOf<kActivation>(ToFloat(g[i]));
            Store(out * up * gate.slope, dg + i);
            Store(out * gate.value, du + i);
          }
        }
      });
    });
  });
  return grad;
}

class GatedUnitFunction : public torch::autograd::Function<GatedUnitFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& gate_up, Activation activation) {
    context->save_for_backward({gate_up});
    context->saved_data["activation"] = static_cast<int64_t>(activation);
    return GatedUnitRows(gate_up, activation);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Activation activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    return {GatedUnitBackwardRows(context->get_saved_variables()[0], grads[0].contiguous(), activation), Tensor()};
  }
};

Tensor LaunchDropout(const Tensor& x, double p, const int64_t* step_seed, uint32_t seed, int64_t first,
                     const Tensor& addend) {
  Tensor y = at::empty_like(x);
  cuda::Dropout(CudaTypeOf(x), x.const_data_ptr(), addend.defined() ? addend.const_data_ptr() : nullptr, p, step_seed,
                seed, first, y.mutable_data_ptr(), x.numel(), CurrentCudaStream());
  return y;
}

}  // namespace

at::Tensor RmsNorm(const Tensor& x_TD, const Tensor& w_D, double epsilon) {
  if (at::GradMode::is_enabled() && (x_TD.requires_grad() || w_D.requires_grad())) {
    return RmsNormFunction::apply(x_TD, w_D, epsilon);
  }
  Tensor inverse_rms;
  return RmsNormRows(x_TD, Tensor(), w_D, epsilon, nullptr, &inverse_rms);
}

at::Tensor RmsNormForward(const Tensor& x_TD, const Tensor& w_D, double epsilon, Tensor* inverse_rms_T) {
  return RmsNormRows(x_TD, Tensor(), w_D, epsilon, nullptr, inverse_rms_T);
}

at::Tensor AddRmsNormForward(const Tensor& x_TD, const Tensor& delta_TD, const Tensor& w_D, double epsilon,
                             Tensor* sum_TD, Tensor* inverse_rms_T) {
  return RmsNormRows(x_TD, delta_TD, w_D, epsilon, sum_TD, inverse_rms_T);
}

namespace {

void AddWeightGradient(const Tensor& dy_TD, const Tensor& x_TD, const Tensor& inverse_rms_T, Tensor dw_D) {
  if (!UsesCpuLoops(x_TD)) {
    dw_D.add_((dy_TD.to(at::kFloat) * x_TD.to(at::kFloat) * inverse_rms_T.unsqueeze(-1)).sum(0));
    return;
  }
  const int64_t rows = x_TD.size(0), columns = x_TD.size(1);
  // Columns are shared out, so that each sum has one order whatever the threads.
  WithElementOf(x_TD, [&]<typename T>() {
    at::parallel_for(0, columns, 64, [&](int64_t begin, int64_t end) {
      float* out = dw_D.mutable_data_ptr<float>();
      for (int64_t t = 0; t < rows; ++t) {
        const T *d = Elements<T>(dy_TD) + t * columns, *v = Elements<T>(x_TD) + t * columns;
        const float r = inverse_rms_T.const_data_ptr<float>()[t];
        for (int64_t i = begin; i < end; ++i) out[i] += ToFloat(d[i]) * ToFloat(v[i]) * r;
      }
    });
  });
}

Tensor LaunchRmsNormBackward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& inverse_rms,
                             const Tensor& residual, const Tensor& dw) {
  Tensor dx = at::empty_like(x);
  const cuda::Type type = CudaTypeOf(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  const void* added = residual.defined() ? residual.const_data_ptr() : nullptr;
  if (dw.defined() && cuda::RmsNormBackwardTakesWeight(type, columns)) {
    Tensor partials = at::empty({cuda::kNormStrips, columns}, dw.options());
    cuda::RmsNormBackwardAndWeight(type, dy.const_data_ptr(), x.const_data_ptr(), w.const_data_ptr(),
                                   inverse_rms.const_data_ptr<float>(), added, dx.mutable_data_ptr(),
                                   partials.mutable_data_ptr<float>(), dw.mutable_data_ptr<float>(), rows, columns,
                                   CurrentCudaStream());
    return dx;
  }
  cuda::RmsNormBackward(type, dy.const_data_ptr(), x.const_data_ptr(), w.const_data_ptr(),
                        inverse_rms.const_data_ptr<float>(), added, dx.mutable_data_ptr(), rows, columns,
                        CurrentCudaStream());
  if (dw.defined()) AddWeightGradient(dy, x, inverse_rms, dw);
  return dx;
}

}  // namespace

at::Tensor RmsNormBackward(const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D, const Tensor& inverse_rms_T,
                           const Tensor& residual_TD, const Tensor& dw_D) {
  if (UsesCudaKernels(x_TD)) return LaunchRmsNormBackward(dy_TD, x_TD, w_D, inverse_rms_T, residual_TD, dw_D);
  if (dw_D.defined()) AddWeightGradient(dy_TD, x_TD, inverse_rms_T, dw_D);
  if (UsesCpuLoops(x_TD)) return RmsNormBackwardRows(dy_TD, x_TD, w_D, inverse_rms_T, residual_TD);
  Tensor dx = RmsNormBackwardAten(dy_TD, x_TD, w_D, inverse_rms_T);
  return residual_TD.defined() ? dx.add_(residual_TD) : dx;
}

at::Tensor GatedUnit(const Tensor& gate_up_T2I, Activation activation) {
  if (at::GradMode::is_enabled() && gate_up_T2I.requires_grad()) return GatedUnitFunction::apply(gate_up_T2I, activation);
  return GatedUnitRows(gate_up_T2I, activation);
}

at::Tensor GatedUnitForward(const Tensor& gate_up_T2I, Activation activation) {
  return GatedUnitRows(gate_up_T2I, activation);
}
at::Tensor GatedUnitBackward(const Tensor& gate_up_T2I, const Tensor& dy_TI, Activation activation) {
  return GatedUnitBackwardRows(gate_up_T2I, dy_TI, activation);
}

at::Tensor DropoutWithSeed(const Tensor& x, double p, uint64_t seed, int64_t first) {
  const float scale = static_cast<float>(1.0 / (1.0 - p));
  const uint32_t stream = static_cast<uint32_t>(seed ^ (seed >> 32));
  if (UsesCudaKernels(x)) return LaunchDropout(x, p, nullptr, stream, first, Tensor());
  if (!UsesCpuLoops(x)) {
    // The same hash in 64-bit integer tensors, reduced to 32 bits after each step.
    Tensor h = (at::arange(x.numel(), x.options().dtype(at::kLong)) + first) * 0x9E3779B9LL;
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
  WithElementOf(x, [&]<typename T>() {
    at::parallel_for(0, x.numel(), 16384, [&](int64_t begin, int64_t end) {
      const T* in = Elements<T>(x);
      T* to = MutableElements<T>(out);
      for (int64_t i = begin; i < end; ++i) {
        Store(MixedBits(static_cast<uint32_t>(first + i), stream) >= threshold ? ToFloat(in[i]) * scale : 0.0f, to + i);
      }
    });
  });
  return out;
}

namespace {

Tensor DropoutOfRows(const Tensor& x_TD, double p, const Tensor& seeds_T, const Tensor& rows_T, uint32_t which,
                     const Tensor& addend_TD) {
  const int64_t rows = x_TD.size(0), columns = x_TD.size(1);
  Tensor y = at::empty_like(x_TD);
  if (UsesCudaKernels(x_TD)) {
    cuda::DropoutRows(CudaTypeOf(x_TD), x_TD.const_data_ptr(), addend_TD.defined() ? addend_TD.const_data_ptr() : nullptr,
                      p, seeds_T.const_data_ptr<int64_t>(), rows_T.const_data_ptr<int64_t>(), which,
                      y.mutable_data_ptr(), rows, columns, CurrentCudaStream());
    return y;
  }
  for (int64_t t = 0; t < rows; ++t) {
    const uint32_t seed = DropoutSeed(seeds_T[t].item<int64_t>(), which);
    y.narrow(0, t, 1).copy_(DropoutWithSeed(x_TD.narrow(0, t, 1), p, seed, rows_T[t].item<int64_t>() * columns));
  }
  return addend_TD.defined() ? y.add_(addend_TD) : y;
}

}  // namespace

at::Tensor DropoutOfStep(const Tensor& x, double p, const StepSeed& seed, uint32_t which, const Tensor& addend,
                         int64_t first) {
  if (seed.seeds_T.defined()) {
    const int64_t begin = first / x.size(1), count = x.size(0);
    return DropoutOfRows(x, p, seed.seeds_T.narrow(0, begin, count), seed.rows_T.narrow(0, begin, count), which, addend);
  }
  if (seed.on_device.defined() && UsesCudaKernels(x)) {
    return LaunchDropout(x, p, seed.on_device.const_data_ptr<int64_t>(), which, first, addend);
  }
  const int64_t value = seed.on_device.defined() ? seed.on_device.item<int64_t>() : seed.value;
  Tensor y = DropoutWithSeed(x, p, DropoutSeed(value, which), first);
  return addend.defined() ? y.add_(addend) : y;
}

}  // namespace attune
