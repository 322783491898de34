#ifndef ATTUNE_SERVER_MODEL_MATRIX_READER_H_
#define ATTUNE_SERVER_MODEL_MATRIX_READER_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "server/model/compute_target.h"
#include "server/model/tensor_source.h"

namespace attune {

// Matrices that share their input, one behind the other, as one in the target's type on its device: w_OI. Rows go straight from
// the mapped file to where they stay, copied where the types agree and else converted, on all threads; to a GPU by way of
// pinned memory, a piece being read while the one before is on its way, and with our kernels as the file has them: it is the GPU
// that converts. The same bits as fp32 values converted by libtorch, NaNs apart.
// REQUIRES: as many columns in each. Throws what libtorch throws.
at::Tensor ReadMatrix(const std::vector<TensorSource::Entry>& entries, const ComputeTarget& target);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_MATRIX_READER_H_
