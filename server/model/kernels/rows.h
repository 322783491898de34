#ifndef ATTUNE_SERVER_MODEL_KERNELS_ROWS_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ROWS_H_

#include <ATen/core/Tensor.h>

#include "server/model/kernels/attention.h"

namespace attune {

// Row t of the result is row index_T[t] of x_ND, or zeros where that is negative.
// index_T int64. No autograd; thread-safe.
at::Tensor TakeRows(const at::Tensor& x_ND, const at::Tensor& index_T);

// Adds to row n of sum_ND (fp32) the n-th row of every sequence of x_TD that has one,
// in the sequences' order: the gradient of a soft prompt.
void AddPrefixRows(const at::Tensor& x_TD, const PackedSequences& sequences, const at::Tensor& sum_ND);

// Adds row t of x_TD to row index_T[t] of sum_VD (fp32), in a fixed order: the gradient
// of an embedding. index_T int64, none negative.
void AddRowsAt(const at::Tensor& x_TD, const at::Tensor& index_T, const at::Tensor& sum_VD);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ROWS_H_
