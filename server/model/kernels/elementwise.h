#ifndef ATTUNE_SERVER_MODEL_KERNELS_ELEMENTWISE_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ELEMENTWISE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/model/kernels/activation.h"

// Row-wise and element-wise steps of a decoder layer. fp32 and bf16 on the CPU run fused
// loops over rows, on a GPU the CUDA kernels where they were built, all computing in fp32;
// other types and devices run the same formulas through ATen. Thread-safe. The first three take part
// in autograd if an input requires it; the rest are their halves, for passes that are
// differentiated by hand.
namespace attune {

// y = x / sqrt(mean(x^2) + epsilon) * w, statistics in fp32 (Zhang and Sennrich 2019).
// x_TD and w_D of one type, contiguous; returns y_TD.
at::Tensor RmsNorm(const at::Tensor& x_TD, const at::Tensor& w_D, double epsilon);

// activation(gate) * up of the packed product gate_up_T2I, gate's columns first (Shazeer 2020).
// Returns T x I.
at::Tensor GatedUnit(const at::Tensor& gate_up_T2I, Activation activation);

// x with each element zeroed with probability p and the others scaled by 1 / (1 - p).
// The mask depends on `seed` and the element's index alone, so that a second call
// (for the gradient) and a resumed job draw the same one, on every device. `first` is x's
// place in the matrix whose mask it is: its first element's index.
at::Tensor DropoutWithSeed(const at::Tensor& x, double p, uint64_t seed, int64_t first = 0);

// RmsNorm that also gives 1 / sqrt(mean(x^2) + epsilon), fp32, one a row.
at::Tensor RmsNormForward(const at::Tensor& x_TD, const at::Tensor& w_D, double epsilon, at::Tensor* inverse_rms_T);
// The same of x + delta, which becomes `*sum_TD`.
at::Tensor AddRmsNormForward(const at::Tensor& x_TD, const at::Tensor& delta_TD, const at::Tensor& w_D, double epsilon,
                             at::Tensor* sum_TD, at::Tensor* inverse_rms_T);
// The gradient of x, plus `residual_TD` if that is defined. Adds the gradient of w to dw_D,
// fp32, if that is defined.
at::Tensor RmsNormBackward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                           const at::Tensor& inverse_rms_T, const at::Tensor& residual_TD,
                           const at::Tensor& dw_D = {});

at::Tensor GatedUnitForward(const at::Tensor& gate_up_T2I, Activation activation);
at::Tensor GatedUnitBackward(const at::Tensor& gate_up_T2I, const at::Tensor& dy_TI, Activation activation);

// What the dropout masks of one optimizer step are drawn from: a value, or an int64
// scalar on the GPU, so that a captured pass draws anew at each replay.
struct StepSeed {
  int64_t value = 0;
  at::Tensor on_device;
  // Of a matrix whose rows are of several steps' matrices, instead: each row's step seed, and
  // its place there. int64, on the device.
  at::Tensor seeds_T, rows_T;
};
// DropoutWithSeed under mask number `which` of a step, plus `addend` if that is defined.
at::Tensor DropoutOfStep(const at::Tensor& x, double p, const StepSeed& seed, uint32_t which,
                         const at::Tensor& addend = {}, int64_t first = 0);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ELEMENTWISE_H_
