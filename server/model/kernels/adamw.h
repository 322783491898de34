#ifndef ATTUNE_SERVER_MODEL_KERNELS_ADAMW_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ADAMW_H_

#include <ATen/core/Tensor.h>

#include "server/model/kernels/cuda/launch.h"

namespace attune {

// What a step of AdamW works on: flat fp32 parameters and gradients, and the parameters'
// copy in bf16, which may be undefined.
struct AdamWArguments {
  at::Tensor parameters, copy, gradients;
};

// A step of AdamW (Loshchilov and Hutter 2019), the same update as torch.optim.AdamW's,
// under gradients clipped by their `norm` (an fp32 scalar on the device; transformers'
// rule): updates parameters, copy and moments, nothing if `norm` is no finite number.
void AdamWStep(const cuda::AdamWSettings& settings, const at::Tensor& norm, const AdamWArguments& arguments,
               const at::Tensor& first, const at::Tensor& second);

// A moment in 8 bits (Dettmers et al. 2022): codes are indexes into a table of 256 rising
// fp32 values up to 1, and each kMomentBlock of them share a scale.
struct Moment8Bit {
  at::Tensor table, codes, scales;
};
// The same over such moments, on the CPU and on GPUs with the CUDA kernels.
void AdamWStep8Bit(const cuda::AdamWSettings& settings, const at::Tensor& norm, const AdamWArguments& arguments,
                   const Moment8Bit& first, const Moment8Bit& second);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ADAMW_H_
