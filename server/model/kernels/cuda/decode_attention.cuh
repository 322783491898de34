#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_DECODE_ATTENTION_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_DECODE_ATTENTION_CUH_

#include "server/model/kernels/cuda/launch.h"

namespace attune::cuda {

// Attention of segments of one query each, whose keys are not cut: a part of PagedAttention. REQUIRES: DecodeAttentionTakes,
// that is, heads in groups of up to 8, of 64 or 128 dimensions, pages of whole sixteens of tokens, one tile a segment.
void DecodeAttention(const PagedAttentionCall& call, Stream stream);

}  // namespace attune::cuda

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_DECODE_ATTENTION_CUH_
