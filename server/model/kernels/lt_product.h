#ifndef ATTUNE_SERVER_MODEL_KERNELS_LT_PRODUCT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_LT_PRODUCT_H_

#include <vector>

#include "server/model/kernels/blas_product.h"
#include "server/model/kernels/product_choice.h"

// cuBLAS products by a kernel of one's own choice, through cublasLt.h.
namespace attune {

// Kernels that cuBLAS offers for such a call, its favourite first, those that split the
// inner dimension left out. Asks cuBLAS each time.
std::vector<ProductKernel> OfferedKernels(const BlasCall& call);

// Makes the product by this kernel, be it among the offered or not, on the calling thread's
// stream; or does nothing and returns false: cuBLAS has none, the card is no Hopper, or an operand does not lie on 16 bytes. May be captured.
// Thread-safe; what was found out about a call is kept for the life of the process.
bool MultiplyBy(const ProductKernel& kernel, const BlasProduct& product);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_LT_PRODUCT_H_
