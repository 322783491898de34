#ifndef ATTUNE_SERVER_MODEL_KERNELS_MATMUL_H_
#define ATTUNE_SERVER_MODEL_KERNELS_MATMUL_H_

#include <ATen/core/Tensor.h>

namespace attune {

// How an operand of MatMul enters: as it is, or transposed.
enum class As { kIs, kTransposed };

// C = alpha * A B + beta * C on matrices whose rows are contiguous but may lie apart
// (column slices). A and B have one type; C has it too, or fp32: gradients of bf16
// products add up in fp32 without a copy. No autograd. Throws c10::Error if cuBLAS refuses.
// Thread-safe for different C.
void MatMul(const at::Tensor& a, As a_as, const at::Tensor& b, As b_as, double alpha, double beta,
            const at::Tensor& c);

// A B as a new matrix of their type.
at::Tensor MatMul(const at::Tensor& a, As a_as, const at::Tensor& b, As b_as);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_MATMUL_H_
