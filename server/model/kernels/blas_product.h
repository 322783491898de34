#ifndef ATTUNE_SERVER_MODEL_KERNELS_BLAS_PRODUCT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_BLAS_PRODUCT_H_

#include <ATen/core/Tensor.h>
#include <cublas_v2.h>

#include <compare>
#include <cstdint>
#include <optional>

#include "server/model/kernels/matmul.h"
#include "server/model/kernels/product_choice.h"

// Products of matrices on a GPU in cuBLAS's words.
namespace attune {

// C = alpha op(A) op(B) + beta C, column-major as cuBLAS has it: C is m x n. A and B are
// of one type, CUDA_R_32F or CUDA_R_16BF; sums are fp32.
struct BlasCall {
  cublasOperation_t first = CUBLAS_OP_N, second = CUBLAS_OP_N;
  int64_t m = 0, n = 0, k = 0, lda = 0, ldb = 0, ldc = 0;
  cudaDataType_t type = CUDA_R_16BF, c_type = CUDA_R_16BF;
  auto operator<=>(const BlasCall&) const = default;
};

struct BlasOperands {
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
  float alpha = 1, beta = 0;
};

// Refers to its matrices' memory, which it does not own.
struct BlasProduct {
  BlasCall call;
  BlasOperands operands;
};

// MatMul's C = alpha A B + beta C.
BlasProduct BlasProductOf(const at::Tensor& a, As a_as, const at::Tensor& b, As b_as, const at::Tensor& c,
                          float alpha = 1, float beta = 0);

// A weight's product of a kind, over what is known of the others: x or its gradient, y or its gradient, W, its gradient.
// Of these the kind's three are looked at.
struct WeightOperands {
  at::Tensor x_TI, y_TO, w_OI, dw_OI;
};
BlasProduct BlasProductOf(ProductKind kind, const WeightOperands& operands);

// Which product of a weight such a call makes, by its types and operations; none if it makes none.
std::optional<ProductShape> ShapeOf(const BlasCall& call);

// Makes the product by the kernel that cuBLAS chooses, on the calling thread's stream. May be captured. Throws c10::Error
// if cuBLAS refuses.
void MultiplyByCublas(const BlasProduct& product);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_BLAS_PRODUCT_H_
