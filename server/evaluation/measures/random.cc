#include "server/evaluation/measures/random.h"

#include <cmath>

#include "absl/numeric/int128.h"
#include "common/stable_hash.h"

namespace attune {
namespace {

constexpr uint64_t kGoldenGamma = 0x9E3779B97F4A7C15ULL;

}  // namespace

CounterRandom::CounterRandom(uint64_t seed, uint64_t stream) : key_(MixBits(MixBits(seed + kGoldenGamma) + stream)) {}

uint64_t CounterRandom::Bits() { return MixBits(key_ + ++counter_ * kGoldenGamma); }

int64_t CounterRandom::Below(int64_t n) {
  const uint64_t range = n, rejected = -range % range;  // 2^64 mod range
  while (true) {
    const absl::uint128 product = absl::uint128(Bits()) * range;
    if (absl::Uint128Low64(product) >= rejected) return static_cast<int64_t>(absl::Uint128High64(product));
  }
}

double CounterRandom::Uniform() { return static_cast<double>(Bits() >> 11) * 0x1.0p-53; }

double CounterRandom::Normal() {
  constexpr double kTwoPi = 6.283185307179586;
  const double radius = std::sqrt(-2 * std::log(1 - Uniform()));
  return radius * std::cos(kTwoPi * Uniform());
}

}  // namespace attune
