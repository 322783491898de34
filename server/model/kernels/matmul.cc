#include "server/model/kernels/matmul.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/Exceptions.h>
#include <cublas_v2.h>

#include <optional>

#include "server/model/kernels/lt_product.h"

namespace attune {
namespace {

using at::Tensor;

Tensor Oriented(const Tensor& x, As as) { return as == As::kIs ? x : x.t(); }

cudaDataType_t BlasTypeOf(const Tensor& x) { return x.scalar_type() == at::kFloat ? CUDA_R_32F : CUDA_R_16BF; }

// Row-major C = A B is column-major C^T = B^T A^T.
BlasCall CallFor(const Tensor& a, As a_as, const Tensor& b, As b_as, const Tensor& c) {
  return {b_as == As::kIs ? CUBLAS_OP_N : CUBLAS_OP_T,
          a_as == As::kIs ? CUBLAS_OP_N : CUBLAS_OP_T,
          c.size(1),
          c.size(0),
          a.size(a_as == As::kIs ? 1 : 0),
          b.stride(0),
          a.stride(0),
          c.stride(0),
          BlasTypeOf(b),
          BlasTypeOf(c)};
}

std::optional<ProductKernel> KernelFor(const BlasCall& x) {
  if (x.type != CUDA_R_16BF) return std::nullopt;
  if (x.second == CUBLAS_OP_T) {
    const bool is_gradient = x.first == CUBLAS_OP_N && x.c_type == CUDA_R_32F;
    return is_gradient ? MeasuredKernel({ProductKind::kWeightGradient, x.n, x.m, x.k}) : std::nullopt;
  }
  if (x.c_type != CUDA_R_16BF) return std::nullopt;
  return x.first == CUBLAS_OP_T ? MeasuredKernel({ProductKind::kForward, x.m, x.k, x.n})
                                : MeasuredKernel({ProductKind::kInputGradient, x.k, x.m, x.n});
}

void CudaMatMul(const Tensor& a, As a_as, const Tensor& b, As b_as, float alpha, float beta, const Tensor& c) {
  const BlasCall x = CallFor(a, a_as, b, b_as, c);
  const BlasOperands operands = {b.const_data_ptr(), a.const_data_ptr(), c.mutable_data_ptr(), alpha, beta};
  const std::optional<ProductKernel> kernel = KernelFor(x);
  if (kernel && MultiplyBy(*kernel, x, operands)) return;
  // torch's handle, with its stream and its workspace: calls may be captured.
  TORCH_CUDABLAS_CHECK(cublasGemmEx(
      at::cuda::getCurrentCUDABlasHandle(), x.first, x.second, static_cast<int>(x.m), static_cast<int>(x.n),
      static_cast<int>(x.k), &alpha, operands.a, x.type, static_cast<int>(x.lda), operands.b, x.type,
      static_cast<int>(x.ldb), &beta, operands.c, x.c_type, static_cast<int>(x.ldc), CUBLAS_COMPUTE_32F,
      CUBLAS_GEMM_DEFAULT));
}

}  // namespace

void MatMul(const Tensor& a, As a_as, const Tensor& b, As b_as, double alpha, double beta, const Tensor& c) {
  if (a.is_cuda()) return CudaMatMul(a, a_as, b, b_as, static_cast<float>(alpha), static_cast<float>(beta), c);
  Tensor left = Oriented(a, a_as), right = Oriented(b, b_as), out = c;
  if (out.scalar_type() == left.scalar_type()) {
    out.addmm_(left, right, beta, alpha);
  } else if (beta == 0) {
    out.copy_(at::mm(left, right));
    if (alpha != 1) out.mul_(alpha);
  } else {
    (beta == 1 ? out : out.mul_(beta)).add_(at::mm(left, right), alpha);
  }
}

Tensor MatMul(const Tensor& a, As a_as, const Tensor& b, As b_as) {
  if (!a.is_cuda()) return at::mm(Oriented(a, a_as), Oriented(b, b_as));
  Tensor c = at::empty({a.size(a_as == As::kIs ? 0 : 1), b.size(b_as == As::kIs ? 1 : 0)}, a.options());
  MatMul(a, a_as, b, b_as, 1, 0, c);
  return c;
}

}  // namespace attune
