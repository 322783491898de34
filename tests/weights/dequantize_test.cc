#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "server/model/weights/gguf.h"

namespace attune {
namespace {

// Half-precision bits of a few values.
constexpr uint16_t kOne = 0x3c00, kHalf = 0x3800, kTwo = 0x4000, kMinusTwo = 0xc000;

std::string Half(uint16_t bits) { return std::string(reinterpret_cast<const char*>(&bits), 2); }

std::vector<float> Expand(GgmlType type, const std::string& bytes, int64_t elements) {
  std::vector<float> out(elements, -12345);
  absl::Status status = Dequantize(type, bytes, elements, out.data());
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

TEST(DequantizeTest, PlainTypes) {
  float values[] = {1.5f, -0.0f, std::numeric_limits<float>::infinity()};
  std::string bytes(reinterpret_cast<const char*>(values), sizeof values);
  EXPECT_THAT(Expand(GgmlType::kF32, bytes, 3), ::testing::ElementsAre(1.5f, -0.0f, values[2]));
  EXPECT_THAT(Expand(GgmlType::kBF16, Half(0x3fc0) + Half(0xbf80), 2), ::testing::ElementsAre(1.5f, -1.0f));
}

TEST(DequantizeTest, EveryHalfPrecisionValueIsExact) {
  std::string bytes;
  for (uint32_t bits = 0; bits < 65536; ++bits) bytes += Half(static_cast<uint16_t>(bits));
  std::vector<float> out = Expand(GgmlType::kF16, bytes, 65536);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(out[bits]), fraction != 0) << bits;
      EXPECT_EQ(std::isinf(out[bits]), fraction == 0) << bits;
    } else {
      double expected = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      EXPECT_EQ(static_cast<double>(out[bits]), sign * expected) << bits;
    }
    EXPECT_EQ(std::signbit(out[bits]), sign < 0) << bits;
  }
}

TEST(DequantizeTest, Q4BlocksHoldLowHalvesFirst) {
  std::string quants;
  for (int i = 0; i < 16; ++i) quants += static_cast<char>(i | (15 - i) << 4);
  std::vector<float> plain = Expand(GgmlType::kQ4_0, Half(kHalf) + quants, 32);
  std::vector<float> shifted = Expand(GgmlType::kQ4_1, Half(kHalf) + Half(kMinusTwo) + quants, 32);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(plain[i], 0.5f * (i - 8));
    EXPECT_EQ(plain[16 + i], 0.5f * (7 - i));
    EXPECT_EQ(shifted[i], 0.5f * i - 2);
    EXPECT_EQ(shifted[16 + i], 0.5f * (15 - i) - 2);
  }
}

TEST(DequantizeTest, Q5BlocksAddTheFifthBit) {
  uint32_t fifth = 0x8001'0002;  // of values 1, 16 and 31
  std::string high(reinterpret_cast<const char*>(&fifth), 4);
  std::string quants(16, '\x21');
  std::vector<float> plain = Expand(GgmlType::kQ5_0, Half(kTwo) + high + quants, 32);
  std::vector<float> shifted = Expand(GgmlType::kQ5_1, Half(kTwo) + Half(kOne) + high + quants, 32);
  for (int i = 0; i < 32; ++i) {
    float value = (i < 16 ? 1 : 2) + (i == 1 || i == 16 || i == 31 ? 16 : 0);
    EXPECT_EQ(plain[i], 2 * (value - 16)) << i;
    EXPECT_EQ(shifted[i], 2 * value + 1) << i;
  }
}

TEST(DequantizeTest, Q8BlocksAreSigned) {
  std::string quants;
  for (int i = 0; i < 32; ++i) quants += static_cast<char>(i * 8 - 128);
  std::vector<float> out = Expand(GgmlType::kQ8_0, Half(kHalf) + quants, 32);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], 0.5f * (i * 8 - 128));
}

// Packs eight six-bit scales and minima the way the K formats do.
std::string PackGroups(const std::vector<int>& scales, const std::vector<int>& minima) {
  std::string out(12, '\0');
  for (int g = 0; g < 4; ++g) {
    out[g] = static_cast<char>(scales[g] | (scales[g + 4] >> 4) << 6);
    out[g + 4] = static_cast<char>(minima[g] | (minima[g + 4] >> 4) << 6);
    out[g + 8] = static_cast<char>((scales[g + 4] & 15) | (minima[g + 4] & 15) << 4);
  }
  return out;
}

TEST(DequantizeTest, KBlocksOfFourAndFiveBits) {
  const std::vector<int> scales = {1, 2, 3, 63, 5, 31, 48, 62}, minima = {0, 9, 63, 4, 33, 6, 17, 60};
  std::string quants, fifth;
  for (int i = 0; i < 128; ++i) quants += static_cast<char>((i * 7) & 255);
  for (int i = 0; i < 32; ++i) fifth += static_cast<char>((i * 37 + 11) & 255);
  std::string head = Half(kHalf) + Half(kTwo) + PackGroups(scales, minima);
  std::vector<float> four = Expand(GgmlType::kQ4_K, head + quants, 256);
  std::vector<float> five = Expand(GgmlType::kQ5_K, head + fifth + quants, 256);
  for (int i = 0; i < 256; ++i) {
    int group = i / 32, byte = static_cast<uint8_t>(quants[32 * (group / 2) + i % 32]);
    int low = group % 2 ? byte >> 4 : byte & 15;
    int bit = static_cast<uint8_t>(fifth[i % 32]) >> group & 1;
    EXPECT_EQ(four[i], 0.5f * scales[group] * low - 2.0f * minima[group]) << i;
    EXPECT_EQ(five[i], 0.5f * scales[group] * (low + 16 * bit) - 2.0f * minima[group]) << i;
  }
}

TEST(DequantizeTest, KBlocksOfSixBits) {
  std::string low(128, '\0'), high(64, '\0'), scales;
  std::vector<int> values(256);
  for (int i = 0; i < 256; ++i) {
    values[i] = (i * 29 + 5) % 64;
    int half = i / 128, quarter = i / 32 % 4, at = i % 32;
    low[64 * half + 32 * (quarter % 2) + at] |= static_cast<char>((values[i] & 15) << (quarter / 2 * 4));
    high[32 * half + at] |= static_cast<char>(values[i] >> 4 << (2 * quarter));
  }
  for (int s = 0; s < 16; ++s) scales += static_cast<char>(s * 9 - 70);
  std::vector<float> out = Expand(GgmlType::kQ6_K, low + high + scales + Half(kHalf), 256);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(out[i], 0.5f * (i / 16 * 9 - 70) * (values[i] - 32)) << i;
}

TEST(DequantizeTest, SeveralBlocksFollowEachOther) {
  std::string block = Half(kOne) + std::string(16, '\x99');
  std::vector<float> out = Expand(GgmlType::kQ4_0, block + Half(kTwo) + std::string(16, '\x99'), 64);
  EXPECT_EQ(out[31], 1.0f);
  EXPECT_EQ(out[32], 2.0f);
  EXPECT_EQ(out[63], 2.0f);
}

TEST(DequantizeTest, RefusesBytesThatDoNotFit) {
  float out[64];
  std::string block = Half(kOne) + std::string(16, '\0');
  for (int64_t elements : {int64_t{-32}, int64_t{0}, int64_t{16}, int64_t{33}, int64_t{64}}) {
    EXPECT_EQ(GetErrorDetails(Dequantize(GgmlType::kQ4_0, block, elements, out)).reason, "BAD_GGUF") << elements;
  }
  EXPECT_FALSE(Dequantize(GgmlType::kQ4_0, block + "x", 32, out).ok());
  EXPECT_FALSE(Dequantize(static_cast<GgmlType>(10), block, 32, out).ok());
  EXPECT_TRUE(Dequantize(GgmlType::kQ4_0, "", 0, out).ok());
}

TEST(DequantizeTest, DescribesTypes) {
  EXPECT_EQ(GgmlBlockElements(GgmlType::kQ6_K), 256);
  EXPECT_EQ(GgmlBlockBytes(GgmlType::kQ6_K), 210);
  EXPECT_EQ(GgmlBlockElements(GgmlType::kBF16), 1);
  EXPECT_EQ(GgmlTypeName(GgmlType::kQ4_1), "Q4_1");
  EXPECT_EQ(GgmlBlockElements(static_cast<GgmlType>(10)), 0);
  EXPECT_EQ(GgmlTypeName(static_cast<GgmlType>(10)), "unknown");
}

}  // namespace
}  // namespace attune
