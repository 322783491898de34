#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/weights/gguf.h"

// The block formats, each as one function from bytes to floats. The loops have
// fixed lengths and no branches, so that compilers vectorise them. Results are
// bit-equal to the formats' definitions in fp32, which needs multiplication and
// addition rounded apart: this file is compiled with -ffp-contract=off.
namespace attune {
namespace {

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

// IEEE half precision to single, exact for every input.
inline float HalfToFloat(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  uint32_t exponent = (half >> 10) & 31;
  uint32_t fraction = half & 0x3ff;
  float subnormal = static_cast<float>(static_cast<int32_t>(fraction)) * 0x1p-24f;
  uint32_t rebased = (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
  uint32_t magnitude = exponent == 0 ? std::bit_cast<uint32_t>(subnormal) : rebased;
  return FromBits(sign | magnitude);
}

inline float LoadHalf(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return HalfToFloat(half);
}

inline uint32_t Load32(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

void F32(const uint8_t* in, int64_t elements, float* out) { std::memcpy(out, in, elements * sizeof(float)); }

void F16(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t i = 0; i < elements; ++i) out[i] = LoadHalf(in + 2 * i);
}

void BF16(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t i = 0; i < elements; ++i) {
    uint16_t upper;
    std::memcpy(&upper, in + 2 * i, sizeof upper);
    out[i] = FromBits(static_cast<uint32_t>(upper) << 16);
  }
}

// Blocks of 32: a half-precision scale, then 16 bytes of two 4-bit values each:
// low halves are values 0-15, high halves 16-31.
void Q4_0(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 32; ++block, in += 18, out += 32) {
    const float scale = LoadHalf(in);
    const uint8_t* q = in + 2;
    for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>((q[i] & 15) - 8);
    for (int i = 0; i < 16; ++i) out[16 + i] = scale * static_cast<float>((q[i] >> 4) - 8);
  }
}

// As Q4_0, with a minimum in place of the fixed 8.
void Q4_1(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 32; ++block, in += 20, out += 32) {
    const float scale = LoadHalf(in), minimum = LoadHalf(in + 2);
    const uint8_t* q = in + 4;
    for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>(q[i] & 15) + minimum;
    for (int i = 0; i < 16; ++i) out[16 + i] = scale * static_cast<float>(q[i] >> 4) + minimum;
  }
}

// As Q4_0; the values' fifth bits are in one 32-bit word before the rest.
void Q5_0(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 32; ++block, in += 22, out += 32) {
    const float scale = LoadHalf(in);
    const uint32_t fifth = Load32(in + 2);
    const uint8_t* q = in + 6;
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(static_cast<int>((q[i] & 15) | (fifth >> i & 1) << 4) - 16);
    }
    for (int i = 0; i < 16; ++i) {
      out[16 + i] = scale * static_cast<float>(static_cast<int>((q[i] >> 4) | (fifth >> (i + 16) & 1) << 4) - 16);
    }
  }
}

void Q5_1(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 32; ++block, in += 24, out += 32) {
    const float scale = LoadHalf(in), minimum = LoadHalf(in + 2);
    const uint32_t fifth = Load32(in + 4);
    const uint8_t* q = in + 8;
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(static_cast<int>((q[i] & 15) | (fifth >> i & 1) << 4)) + minimum;
    }
    for (int i = 0; i < 16; ++i) {
      int value = static_cast<int>((q[i] >> 4) | (fifth >> (i + 16) & 1) << 4);
      out[16 + i] = scale * static_cast<float>(value) + minimum;
    }
  }
}

void Q8_0(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 32; ++block, in += 34, out += 32) {
    const float scale = LoadHalf(in);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(in[2 + i]));
  }
}

// The scales and minima of a "K" block of 8 groups: 6 bits each, packed into 12
// bytes. Groups 0-3 have bytes of their own; 4-7 take a half of a byte and the
// upper two bits that the first groups leave free.
inline void UnpackGroup(const uint8_t* packed, int group, int* scale, int* minimum) {
  if (group < 4) {
    *scale = packed[group] & 63;
    *minimum = packed[group + 4] & 63;
  } else {
    *scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    *minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
  }
}

// Blocks of 256 in 8 groups of 32; each 32 bytes hold two groups, in their low and high halves.
void Q4_K(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 256; ++block, in += 144) {
    const float scale = LoadHalf(in), minimum = LoadHalf(in + 2);
    for (int group = 0; group < 8; ++group, out += 32) {
      int group_scale, group_minimum;
      UnpackGroup(in + 4, group, &group_scale, &group_minimum);
      const float d = scale * static_cast<float>(group_scale), m = minimum * static_cast<float>(group_minimum);
      const uint8_t* q = in + 16 + 32 * (group / 2);
      const int shift = 4 * (group % 2);
      for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(q[i] >> shift & 15) - m;
    }
  }
}

// As Q4_K; bit g of byte i of the 32 bytes after the scales is the fifth bit of value i of group g.
void Q5_K(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 256; ++block, in += 176) {
    const float scale = LoadHalf(in), minimum = LoadHalf(in + 2);
    const uint8_t* fifth = in + 16;
    for (int group = 0; group < 8; ++group, out += 32) {
      int group_scale, group_minimum;
      UnpackGroup(in + 4, group, &group_scale, &group_minimum);
      const float d = scale * static_cast<float>(group_scale), m = minimum * static_cast<float>(group_minimum);
      const uint8_t* q = in + 48 + 32 * (group / 2);
      const int shift = 4 * (group % 2);
      for (int i = 0; i < 32; ++i) {
        out[i] = d * static_cast<float>((q[i] >> shift & 15) | (fifth[i] >> group & 1) << 4) - m;
      }
    }
  }
}

// Blocks of 256 in two halves of four groups of 32: 128 bytes of low four bits, 64
// of upper two bits, 16 signed scales (one for 16 values), the block's scale.
void Q6_K(const uint8_t* in, int64_t elements, float* out) {
  for (int64_t block = 0; block < elements / 256; ++block, in += 210) {
    const float scale = LoadHalf(in + 208);
    const int8_t* scales = reinterpret_cast<const int8_t*>(in + 192);
    for (int group = 0; group < 8; ++group, out += 32) {
      const int half = group / 4, quarter = group % 4;
      const uint8_t* low = in + 64 * half + 32 * (quarter % 2);
      const uint8_t* high = in + 128 + 32 * half;
      const int low_shift = 4 * (quarter / 2), high_shift = 2 * quarter;
      for (int part = 0; part < 2; ++part) {
        const float d = scale * static_cast<float>(scales[2 * group + part]);
        for (int i = 16 * part; i < 16 * part + 16; ++i) {
          int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
          out[i] = d * static_cast<float>(value - 32);
        }
      }
    }
  }
}

struct Format {
  GgmlType type;
  const char* name;
  int64_t block_elements;
  int64_t block_bytes;
  void (*dequantize)(const uint8_t* in, int64_t elements, float* out);
};

constexpr Format kFormats[] = {
    {GgmlType::kF32, "F32", 1, 4, F32},        {GgmlType::kF16, "F16", 1, 2, F16},
    {GgmlType::kBF16, "BF16", 1, 2, BF16},     {GgmlType::kQ4_0, "Q4_0", 32, 18, Q4_0},
    {GgmlType::kQ4_1, "Q4_1", 32, 20, Q4_1},   {GgmlType::kQ5_0, "Q5_0", 32, 22, Q5_0},
    {GgmlType::kQ5_1, "Q5_1", 32, 24, Q5_1},   {GgmlType::kQ8_0, "Q8_0", 32, 34, Q8_0},
    {GgmlType::kQ4_K, "Q4_K", 256, 144, Q4_K}, {GgmlType::kQ5_K, "Q5_K", 256, 176, Q5_K},
    {GgmlType::kQ6_K, "Q6_K", 256, 210, Q6_K},
};

const Format* FindFormat(GgmlType type) {
  for (const Format& format : kFormats) {
    if (format.type == type) return &format;
  }
  return nullptr;
}

}  // namespace

int64_t GgmlBlockElements(GgmlType type) {
  const Format* format = FindFormat(type);
  return format ? format->block_elements : 0;
}

int64_t GgmlBlockBytes(GgmlType type) {
  const Format* format = FindFormat(type);
  return format ? format->block_bytes : 0;
}

absl::string_view GgmlTypeName(GgmlType type) {
  const Format* format = FindFormat(type);
  return format ? format->name : "unknown";
}

absl::Status Dequantize(GgmlType type, absl::string_view bytes, int64_t elements, float* out) {
  const Format* format = FindFormat(type);
  if (format == nullptr) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_GGUF",
                     absl::StrCat("Weights of type ", static_cast<uint32_t>(type), " are not supported"));
  }
  if (elements < 0 || elements % format->block_elements != 0 ||
      bytes.size() / format->block_bytes != static_cast<uint64_t>(elements / format->block_elements) ||
      bytes.size() % format->block_bytes != 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_GGUF",
                     absl::StrCat(bytes.size(), " bytes do not hold ", elements, " values of type ", format->name));
  }
  if (elements > 0) format->dequantize(reinterpret_cast<const uint8_t*>(bytes.data()), elements, out);
  return absl::OkStatus();
}

}  // namespace attune
