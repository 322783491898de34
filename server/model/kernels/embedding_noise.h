#ifndef ATTUNE_SERVER_MODEL_KERNELS_EMBEDDING_NOISE_H_
#define ATTUNE_SERVER_MODEL_KERNELS_EMBEDDING_NOISE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/model/kernels/elementwise.h"

namespace attune {

// NEFTune (Jain et al. 2023): adds, in place, uniform noise of +-alpha / sqrt(L * D) to x_TD, the embedded tokens of
// sequences that are packed end to end, where L is a row's sequence's length without its `virtual_tokens`, whose rows
// (ids below 0) get none. ids_T int64; starts_int32 where sequences start, and the end, on x's device. Drawn from the
// step's seed and the element's place alone: the same draw on every device and at every repetition; follows a seed on
// the device within a captured graph. Not for rows of several steps. Thread-safe.
void AddEmbeddingNoise(const at::Tensor& x_TD, const at::Tensor& ids_T, const at::Tensor& starts_int32,
                       int64_t virtual_tokens, double alpha, const StepSeed& seed);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_EMBEDDING_NOISE_H_
