#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_DISPATCH_H_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_DISPATCH_H_

#include <ATen/core/Tensor.h>

#include "server/model/kernels/cuda/launch.h"

// From tensors to the raw pointers of cuda/launch.h.
namespace attune {

inline bool IsKernelType(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16; }

// Whether the hand-written CUDA kernels take this tensor.
inline bool UsesCudaKernels(const at::Tensor& x) {
  return x.is_cuda() && cuda::Available() && IsKernelType(x.scalar_type()) && x.is_contiguous();
}

inline cuda::Type CudaTypeOf(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? cuda::Type::kFloat32 : cuda::Type::kBfloat16;
}

// The calling thread's stream on the current device.
cuda::Stream CurrentCudaStream();

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_DISPATCH_H_
