#ifndef ATTUNE_SERVER_MODEL_KERNELS_LORA_LINEAR_H_
#define ATTUNE_SERVER_MODEL_KERNELS_LORA_LINEAR_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace attune {

// One low-rank update of some output columns of a product.
struct LoraTerm {
  at::Tensor a_RI, b_OR;  // fp32 leaves while training
  double scale;
  int64_t first_column;  // of the O output columns that it adds to
};

// y = x W^T, plus scale * dropout(x) A^T B^T on each term's columns. The weight is
// frozen: no gradient is computed for it and no copy of it is made. All A's that share
// the input run as one product. The dropout mask is shared by the terms (PEFT draws
// one each) and is made from `dropout_seed`, never stored. Takes part in autograd.
// x_TI and w_OI of the compute type; returns T x O in that type.
at::Tensor LoraLinear(const at::Tensor& x_TI, const at::Tensor& w_OI, const std::vector<LoraTerm>& terms,
                      double dropout, uint64_t dropout_seed);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_LORA_LINEAR_H_
