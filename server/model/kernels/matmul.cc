#include "server/model/kernels/matmul.h"

#include <ATen/ATen.h>

#include <optional>

#include "server/model/kernels/blas_product.h"
#include "server/model/kernels/lt_product.h"

namespace attune {
namespace {

using at::Tensor;

Tensor Oriented(const Tensor& x, As as) { return as == As::kIs ? x : x.t(); }

void CudaMatMul(const BlasProduct& product) {
  const std::optional<ProductShape> shape = ShapeOf(product.call);
  const std::optional<ProductKernel> kernel = shape ? MeasuredKernel(*shape) : std::nullopt;
  if (!kernel || !MultiplyBy(*kernel, product)) MultiplyByCublas(product);
}

}  // namespace

void MatMul(const Tensor& a, As a_as, const Tensor& b, As b_as, double alpha, double beta, const Tensor& c) {
  if (a.is_cuda()) {
    return CudaMatMul(BlasProductOf(a, a_as, b, b_as, c, static_cast<float>(alpha), static_cast<float>(beta)));
  }
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
