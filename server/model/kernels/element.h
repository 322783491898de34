#ifndef ATTUNE_SERVER_MODEL_KERNELS_ELEMENT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ELEMENT_H_

#include <ATen/core/Tensor.h>

#include <bit>
#include <cstdint>

namespace attune {

// A stored bfloat16, for loops on the CPU that compute in fp32. c10's own conversions
// have branches that keep compilers from vectorising loops over them.
struct Bf16 {
  uint16_t bits;
};

inline float ToFloat(float x) { return x; }
inline float ToFloat(Bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// To the nearest, ties to even; NaN stays NaN.
inline void Store(float x, float* to) { *to = x; }
inline void Store(float x, Bf16* to) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>((u & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

// Whether the loops on the CPU take this type.
inline bool UsesCpuLoops(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

template <typename T>
const T* Elements(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <typename T>
T* MutableElements(const at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Calls body.operator()<T>() with the type that `x` stores. REQUIRES: UsesCpuLoops(x).
template <typename Body>
void WithElementOf(const at::Tensor& x, const Body& body) {
  if (x.scalar_type() == at::kFloat) {
    body.template operator()<float>();
  } else {
    body.template operator()<Bf16>();
  }
}

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ELEMENT_H_
