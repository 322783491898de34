#include "server/model/kernels/blas_product.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/Exceptions.h>

namespace attune {
namespace {

using at::Tensor;

cudaDataType_t BlasTypeOf(const Tensor& x) { return x.scalar_type() == at::kFloat ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

// Row-major C = A B is column-major C^T = B^T A^T.
BlasProduct BlasProductOf(const Tensor& a, As a_as, const Tensor& b, As b_as, const Tensor& c, float alpha, float beta) {
  const BlasCall call = {b_as == As::kIs ? CUBLAS_OP_N : CUBLAS_OP_T,
                         a_as == As::kIs ? CUBLAS_OP_N : CUBLAS_OP_T,
                         c.size(1),
                         c.size(0),
                         a.size(a_as == As::kIs ? 1 : 0),
                         b.stride(0),
                         a.stride(0),
                         c.stride(0),
                         BlasTypeOf(b),
                         BlasTypeOf(c)};
  return {call, {b.const_data_ptr(), a.const_data_ptr(), c.mutable_data_ptr(), alpha, beta}};
}

BlasProduct BlasProductOf(ProductKind kind, const WeightOperands& m) {
  switch (kind) {
    case ProductKind::kForward: return BlasProductOf(m.x_TI, As::kIs, m.w_OI, As::kTransposed, m.y_TO);
    case ProductKind::kInputGradient: return BlasProductOf(m.y_TO, As::kIs, m.w_OI, As::kIs, m.x_TI);
    case ProductKind::kWeightGradient: break;
  }
  return BlasProductOf(m.y_TO, As::kTransposed, m.x_TI, As::kIs, m.dw_OI);
}

std::optional<ProductShape> ShapeOf(const BlasCall& x) {
  if (x.type != CUDA_R_16BF) return std::nullopt;
  if (x.second == CUBLAS_OP_T) {
    const bool is_gradient = x.first == CUBLAS_OP_N && x.c_type == CUDA_R_32F;
    return is_gradient ? std::optional(ProductShape{ProductKind::kWeightGradient, x.n, x.m, x.k}) : std::nullopt;
  }
  if (x.c_type != CUDA_R_16BF) return std::nullopt;
  return x.first == CUBLAS_OP_T ? ProductShape{ProductKind::kForward, x.m, x.k, x.n}
                                : ProductShape{ProductKind::kInputGradient, x.k, x.m, x.n};
}

void MultiplyByCublas(const BlasProduct& product) {
  const auto& [c, x] = product;
  // torch's handle, with its stream and its workspace: calls may be captured.
  TORCH_CUDABLAS_CHECK(cublasGemmEx(
      at::cuda::getCurrentCUDABlasHandle(), c.first, c.second, static_cast<int>(c.m), static_cast<int>(c.n),
      static_cast<int>(c.k), &x.alpha, x.a, c.type, static_cast<int>(c.lda), x.b, c.type, static_cast<int>(c.ldb), &x.beta,
      x.c, c.c_type, static_cast<int>(c.ldc), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

}  // namespace attune
