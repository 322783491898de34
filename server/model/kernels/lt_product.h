#ifndef ATTUNE_SERVER_MODEL_KERNELS_LT_PRODUCT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_LT_PRODUCT_H_

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <vector>

#include "server/model/kernels/product_choice.h"

// cuBLAS products by a kernel of one's own choice, through cublasLt.h.
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

// Kernels that cuBLAS offers for such a call, its favourite first, those that split the
// inner dimension left out. Asks cuBLAS each time.
std::vector<ProductKernel> OfferedKernels(const BlasCall& call);

// Runs the call by this kernel, be it among the offered or not, on the calling thread's
// stream; or does nothing and returns false: cuBLAS has none, the card is no Hopper, or an operand does not lie on 16 bytes. May be captured.
// Thread-safe; what was found out about a call is kept for the life of the process.
bool MultiplyBy(const ProductKernel& kernel, const BlasCall& call, const BlasOperands& operands);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_LT_PRODUCT_H_
