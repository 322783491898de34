#ifndef ATTUNE_SERVER_MODEL_KERNELS_ADAMW_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ADAMW_H_

#include <ATen/core/Tensor.h>

#include "server/model/kernels/cuda/launch.h"

namespace attune {

// A step of AdamW (Loshchilov and Hutter 2019) on flat fp32 parameters, the same update
// as torch.optim.AdamW's: clips the gradients by `norm` (an fp32 scalar on the device;
// transformers' rule), updates parameters and moments, and zeroes the gradients. If `norm`
// is no finite number only the latter. On the CPU and on GPUs with the CUDA kernels.
void AdamWStep(const cuda::AdamWSettings& settings, const at::Tensor& norm, const at::Tensor& parameters,
               const at::Tensor& gradients, const at::Tensor& first, const at::Tensor& second);

// A moment in 8 bits (Dettmers et al. 2022): codes are indexes into a table of 256 rising
// fp32 values up to 1, and each kMomentBlock of them share a scale.
struct Moment8Bit {
  at::Tensor table, codes, scales;
};
// The same over such moments.
void AdamWStep8Bit(const cuda::AdamWSettings& settings, const at::Tensor& norm, const at::Tensor& parameters,
                   const at::Tensor& gradients, const Moment8Bit& first, const Moment8Bit& second);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ADAMW_H_
