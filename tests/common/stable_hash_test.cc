#include "common/stable_hash.h"

#include <string>

#include <gtest/gtest.h>

namespace attune {
namespace {

// Published values: what is stored hangs on them.
TEST(StableHashTest, IsFnv1a) {
  EXPECT_EQ(StableHash(""), 0xCBF29CE484222325ULL);
  EXPECT_EQ(StableHash("a"), 0xAF63DC4C8601EC8CULL);
  EXPECT_EQ(StableHash("foobar"), 0x85944171F73967E8ULL);
  EXPECT_NE(StableHash(std::string(1, '\0')), StableHash(""));
}

// SplitMix64's first numbers from the seed 0.
TEST(StableHashTest, MixesAsSplitMix64) {
  constexpr uint64_t kGamma = 0x9E3779B97F4A7C15ULL;
  EXPECT_EQ(MixBits(kGamma), 0xE220A8397B1DCDAFULL);
  EXPECT_EQ(MixBits(2 * kGamma), 0x6E789E6AA1B965F4ULL);
  EXPECT_EQ(MixBits(0), 0u);
}

}  // namespace
}  // namespace attune
