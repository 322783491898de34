#ifndef ATTUNE_SERVER_MODEL_KERNELS_ELEMENTWISE_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ELEMENTWISE_H_

#include <ATen/core/Tensor.h>

// Row-wise and element-wise steps of a decoder layer. Each takes part in autograd
// if an input requires it. fp32 on the CPU runs fused loops over rows; other types
// and devices run the same formulas through ATen. Thread-safe.
namespace attune {

// y = x / sqrt(mean(x^2) + epsilon) * w, statistics in fp32 (Zhang and Sennrich 2019).
// x_TD and w_D of one type, contiguous; returns y_TD.
at::Tensor RmsNorm(const at::Tensor& x_TD, const at::Tensor& w_D, double epsilon);

// silu(gate) * up of the packed product gate_up_T2I, gate's columns first (Shazeer 2020).
// Returns T x I.
at::Tensor SwiGlu(const at::Tensor& gate_up_T2I);

// x with each element zeroed with probability p and the others scaled by 1 / (1 - p).
// The mask depends on `seed` and the element's index alone, so that a second call
// (for the gradient) and a resumed job draw the same one on one device type.
at::Tensor DropoutWithSeed(const at::Tensor& x, double p, uint64_t seed);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ELEMENTWISE_H_
