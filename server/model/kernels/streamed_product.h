#ifndef ATTUNE_SERVER_MODEL_KERNELS_STREAMED_PRODUCT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_STREAMED_PRODUCT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/model/kernels/cuda/launch.h"

namespace attune {

// Products of a decoding step of several sequences by a dense weight in bf16, which take as long as reading the weight.

// Rows of x that it takes.
inline constexpr int64_t kMostStreamedRows = cuda::kStreamedTokens;
// Whether the device and the sizes are for it: Hopper or later, contiguous, whole pieces of cuda::kStreamedColumns columns.
bool CanStream(const at::Tensor& w_OI);

struct StreamedOptions {
  cuda::Start start = cuda::Start::kAfter;
  cuda::Next next = cuda::Next::kAtOnce;
  cuda::StreamedCut cut = {};
};
// y_TO = x_TI W^T on the calling thread's stream, not waited for; all bf16 on a GPU with kernels, rows contiguous.
// REQUIRES: CanStream(w_OI); at most kMostStreamedRows rows of x, on 16 bytes.
void MultiplyStreamed(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& y_TO, const StreamedOptions& options = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_STREAMED_PRODUCT_H_
