#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_RANK_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_RANK_CUH_

namespace attune::cuda {

// A logit and its token as one number: larger for larger values, and for lower tokens among equals.
__device__ inline unsigned long long Rank(float value, int token) {
  const unsigned bits = __float_as_uint(value);
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(token));
}
__device__ inline int TokenOfRank(unsigned long long rank) {
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(rank));
}
__device__ inline float ValueOfRank(unsigned long long rank) {
  const unsigned ordered = static_cast<unsigned>(rank >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

struct Max {
  __device__ unsigned long long operator()(unsigned long long a, unsigned long long b) const { return a > b ? a : b; }
};

}  // namespace attune::cuda

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_RANK_CUH_
