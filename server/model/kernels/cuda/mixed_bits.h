#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_MIXED_BITS_H_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_MIXED_BITS_H_

#include <cstdint>

#ifdef __CUDACC__
#define ATTUNE_HOST_DEVICE __host__ __device__
#else
#define ATTUNE_HOST_DEVICE
#endif

namespace attune {

// A counter-based generator: 32 mixed bits for element `index` of stream `seed`, the
// same on every device.
ATTUNE_HOST_DEVICE inline uint32_t MixedBits(uint32_t index, uint32_t seed) {
  uint32_t h = index * 0x9E3779B9u + seed;
  h ^= h >> 16;
  h *= 0x85EBCA6Bu;
  h ^= h >> 13;
  h *= 0xC2B2AE35u;
  return h ^ (h >> 16);
}

// The seed of dropout number `which` of a step.
ATTUNE_HOST_DEVICE inline uint32_t DropoutSeed(int64_t step_seed, uint32_t which) {
  const uint64_t bits = static_cast<uint64_t>(step_seed);
  return MixedBits(which, static_cast<uint32_t>(bits ^ (bits >> 32)));
}

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_MIXED_BITS_H_
