#include "server/model/kernels/rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/element.h"

namespace attune {

using at::Tensor;

Tensor TakeRows(const Tensor& x_ND, const Tensor& index_T) {
  if (UsesCudaKernels(x_ND)) {
    Tensor out = at::empty({index_T.size(0), x_ND.size(1)}, x_ND.options());
    cuda::TakeRows(CudaTypeOf(x_ND), x_ND.const_data_ptr(), index_T.const_data_ptr<int64_t>(), out.mutable_data_ptr(),
                   index_T.size(0), x_ND.size(1), CurrentCudaStream());
    return out;
  }
  const Tensor none = index_T.lt(0).unsqueeze(1);
  return x_ND.index_select(0, index_T.clamp_min(0)).masked_fill_(none, 0);
}

void AddPrefixRows(const Tensor& x_TD, const PackedSequences& sequences, const Tensor& sum_ND) {
  if (UsesCudaKernels(x_TD)) {
    cuda::AddPrefixRows(CudaTypeOf(x_TD), x_TD.const_data_ptr(), sequences.starts_int32.const_data_ptr<int32_t>(),
                        sequences.starts_int32.size(0) - 1, sum_ND.size(0), sum_ND.mutable_data_ptr<float>(),
                        x_TD.size(1), CurrentCudaStream());
    return;
  }
  for (size_t i = 0; i + 1 < sequences.starts.size(); ++i) {
    const int64_t n = std::min(sum_ND.size(0), sequences.starts[i + 1] - sequences.starts[i]);
    Tensor target = sum_ND.narrow(0, 0, n);
    target.add_(x_TD.narrow(0, sequences.starts[i], n));
  }
}

void AddRowsAt(const Tensor& x_TD, const Tensor& index_T, const Tensor& sum_VD) {
  Tensor sum = sum_VD;
  if (!UsesCpuLoops(x_TD)) {
    // Sorted by row inside: the same order each time.
    sum.index_put_({index_T}, x_TD.to(at::kFloat), /*accumulate=*/true);
    return;
  }
  const int64_t rows = x_TD.size(0), columns = x_TD.size(1);
  const int64_t* index = index_T.const_data_ptr<int64_t>();
  WithElementOf(x_TD, [&]<typename T>() {
    at::parallel_for(0, columns, 64, [&](int64_t begin, int64_t end) {
      for (int64_t t = 0; t < rows; ++t) {
        const T* from = Elements<T>(x_TD) + t * columns;
        float* to = sum.mutable_data_ptr<float>() + index[t] * columns;
        for (int64_t i = begin; i < end; ++i) to[i] += ToFloat(from[i]);
      }
    });
  });
}

}  // namespace attune
