#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_MIXED_BITS_H_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_MIXED_BITS_H_

#include <cmath>
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

// The number of a step's noise among its dropout masks: no mask has it.
inline constexpr uint32_t kNoiseStream = 0xFFFFFFFFu;

// Uniform in [-1, 1), in steps of 2^-23.
ATTUNE_HOST_DEVICE inline float UniformNoise(uint32_t index, uint32_t seed) {
  return static_cast<float>(MixedBits(index, seed) >> 8) * (1.0f / 8388608.0f) - 1.0f;
}

// NEFTune's alpha / sqrt(L * D), of at least one token.
ATTUNE_HOST_DEVICE inline float NoiseMagnitude(double alpha, int64_t length, int64_t columns) {
  return static_cast<float>(alpha / sqrt(static_cast<double>((length < 1 ? 1 : length) * columns)));
}

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_MIXED_BITS_H_
