#ifndef ATTUNE_SERVER_MODEL_KERNELS_FAST_MATH_H_
#define ATTUNE_SERVER_MODEL_KERNELS_FAST_MATH_H_

#include <bit>
#include <cstdint>

namespace attune {

// e^x in float, relative error under 2e-7, written so that compilers vectorise
// loops over it (libm's expf they do not). Underflows to 0 below -87.3, and is
// held at e^88.3 above.
inline float FastExp(float x) {
  constexpr float kLog2e = 1.44269504088896341f;
  // Two-part ln 2: the product with the integer part is exact (Cody and Waite).
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  float clamped = x > 88.3f ? 88.3f : (x < -87.3f ? -87.3f : x);
  float n = (clamped * kLog2e + kRound) - kRound;
  float r = (clamped - n * kLn2High) - n * kLn2Low;
  // Taylor terms to r^7 suffice for |r| <= ln(2) / 2.
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  float scale = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.3f ? 0.0f : p * scale;
}

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_FAST_MATH_H_
