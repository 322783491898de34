#include "server/model/kernels/streamed_product.h"

#include "server/model/kernels/cuda_dispatch.h"

namespace attune {

using at::Tensor;

bool CanStream(const Tensor& w_OI) {
  return w_OI.scalar_type() == at::kBFloat16 && w_OI.is_contiguous() && cuda::StreamedProductTakes(w_OI.size(0), w_OI.size(1));
}

void MultiplyStreamed(const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO, const StreamedOptions& options) {
  cuda::StreamedProduct(x_TI.const_data_ptr(), x_TI.stride(0), w_OI.const_data_ptr(), w_OI.size(0), w_OI.size(1),
                        y_TO.mutable_data_ptr(), y_TO.stride(0), x_TI.size(0), CurrentCudaStream(), options.start, options.next,
                        options.cut);
}

}  // namespace attune
