#ifndef ATTUNE_SERVER_MODEL_KERNELS_QUANTIZED_MATRIX_H_
#define ATTUNE_SERVER_MODEL_KERNELS_QUANTIZED_MATRIX_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/model/kernels/cuda/launch.h"

namespace attune {

// A frozen weight matrix in 8 or 4 bits, for training adapters over it in little memory
// (QLoRA, Dettmers et al. 2023). Blocks of 64 values, counted row after row, share an fp32
// scale, the largest magnitude among them. INT8: value = code / 127 * scale. NF4: value =
// level[code] * scale, the levels being quantiles of a normal distribution; two codes a
// byte, the first in the high half. Immutable: thread-safe.
struct QuantizedMatrix {
  static constexpr int64_t kBlock = cuda::kQuantizedBlock;

  cuda::Codes codes;
  int64_t rows, columns;
  at::Tensor data;    // int8 or uint8, flat
  at::Tensor scales;  // fp32, one a block

  int64_t bytes() const { return static_cast<int64_t>(data.nbytes() + scales.nbytes()); }
  // What such a matrix of `count` values takes.
  static int64_t BytesFor(cuda::Codes codes, int64_t count);
};

// The nearest representable matrix, on `device`: made there, a piece after the other, so that
// little more than the result is taken. REQUIRES: w_OI is fp32 or bf16, contiguous, its size
// a multiple of kBlock.
QuantizedMatrix Quantize(const at::Tensor& w_OI, cuda::Codes codes, at::Device device);
// The matrix in fp32 or bf16.
at::Tensor Dequantize(const QuantizedMatrix& matrix, at::ScalarType type);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_QUANTIZED_MATRIX_H_
