#include <cuda_fp16.h>

#include "server/model/kernels/cuda/common.cuh"

// GGUF's formats, each as how a few neighbouring values of a block are read; weights/dequantize.cc says how blocks are laid
// out, and defines the results bit by bit: multiplication and addition are rounded apart, so never written as operators,
// which nvcc may fuse. Blocks lie on odd places: they are read byte by byte.
namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline uint32_t Load16(const uint8_t* bytes) { return bytes[0] | bytes[1] << 8; }
__device__ inline uint32_t Load32(const uint8_t* bytes) { return Load16(bytes) | Load16(bytes + 2) << 16; }
__device__ inline float LoadHalf(const uint8_t* bytes) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(Load16(bytes))));
}

// scale * code, and that plus the minimum.
__device__ inline float Scaled(float scale, int code) { return __fmul_rn(scale, static_cast<float>(code)); }
__device__ inline float Scaled(float scale, int code, float minimum) { return __fadd_rn(Scaled(scale, code), minimum); }

struct F32 {
  static constexpr int kValues = 1, kBytes = 4, kEach = 1;
  __device__ static void Read(const uint8_t* block, int, float (&v)[kEach]) { v[0] = __uint_as_float(Load32(block)); }
};

struct F16 {
  static constexpr int kValues = 1, kBytes = 2, kEach = 1;
  __device__ static void Read(const uint8_t* block, int, float (&v)[kEach]) { v[0] = LoadHalf(block); }
};

struct BF16 {
  static constexpr int kValues = 1, kBytes = 2, kEach = 1;
  __device__ static void Read(const uint8_t* block, int, float (&v)[kEach]) { v[0] = __uint_as_float(Load16(block) << 16); }
};

// Value `i` of 32 in four bits: 16 bytes with values 0-15 in their low halves, 16-31 in their high ones.
__device__ inline int Low4(const uint8_t* q, int i) { return q[i % 16] >> i / 16 * 4 & 15; }
// With a fifth bit, that of each value in `fifth`.
__device__ inline int Low5(const uint8_t* q, uint32_t fifth, int i) {
  return Low4(q, i) | static_cast<int>(fifth >> i & 1) << 4;
}

struct Q4_0 {
  static constexpr int kValues = 32, kBytes = 18, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const float scale = LoadHalf(block);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = Scaled(scale, Low4(block + 2, first + i) - 8);
  }
};

struct Q4_1 {
  static constexpr int kValues = 32, kBytes = 20, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const float scale = LoadHalf(block), minimum = LoadHalf(block + 2);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = Scaled(scale, Low4(block + 4, first + i), minimum);
  }
};

struct Q5_0 {
  static constexpr int kValues = 32, kBytes = 22, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const float scale = LoadHalf(block);
    const uint32_t fifth = Load32(block + 2);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = Scaled(scale, Low5(block + 6, fifth, first + i) - 16);
  }
};

struct Q5_1 {
  static constexpr int kValues = 32, kBytes = 24, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const float scale = LoadHalf(block), minimum = LoadHalf(block + 2);
    const uint32_t fifth = Load32(block + 4);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = Scaled(scale, Low5(block + 8, fifth, first + i), minimum);
  }
};

struct Q8_0 {
  static constexpr int kValues = 32, kBytes = 34, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const float scale = LoadHalf(block);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = Scaled(scale, static_cast<int8_t>(block[2 + first + i]));
  }
};

// Of one of the 8 groups of 32 of a "K" block: its scale and what is subtracted.
struct Group {
  float scale, minimum;
};
__device__ inline Group LoadGroup(const uint8_t* block, int group) {
  const uint8_t* packed = block + 4;
  int scale = packed[group % 4], minimum = packed[group % 4 + 4];
  if (group < 4) {
    scale &= 63;
    minimum &= 63;
  } else {
    scale = (packed[group + 4] & 15) | scale >> 6 << 4;
    minimum = packed[group + 4] >> 4 | minimum >> 6 << 4;
  }
  return {Scaled(LoadHalf(block), scale), Scaled(LoadHalf(block + 2), minimum)};
}

struct Q4_K {
  static constexpr int kValues = 256, kBytes = 144, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const int group = first / 32, shift = 4 * (group % 2);
    const Group own = LoadGroup(block, group);
    const uint8_t* q = block + 16 + 32 * (group / 2) + first % 32;
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = Scaled(own.scale, q[i] >> shift & 15, -own.minimum);
  }
};

struct Q5_K {
  static constexpr int kValues = 256, kBytes = 176, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const int group = first / 32, shift = 4 * (group % 2);
    const Group own = LoadGroup(block, group);
    const uint8_t *fifth = block + 16 + first % 32, *q = block + 48 + 32 * (group / 2) + first % 32;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      v[i] = Scaled(own.scale, (q[i] >> shift & 15) | (fifth[i] >> group & 1) << 4, -own.minimum);
    }
  }
};

struct Q6_K {
  static constexpr int kValues = 256, kBytes = 210, kEach = 8;
  __device__ static void Read(const uint8_t* block, int first, float (&v)[kEach]) {
    const int half = first / 128, quarter = first / 32 % 4;
    const uint8_t* low = block + 64 * half + 32 * (quarter % 2) + first % 32;
    const uint8_t* high = block + 128 + 32 * half + first % 32;
    const float scale = Scaled(LoadHalf(block + 208), static_cast<int8_t>(block[192 + first / 16]));
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      v[i] = Scaled(scale, ((low[i] >> 4 * (quarter / 2) & 15) | (high[i] >> 2 * quarter & 3) << 4) - 32);
    }
  }
};

template <typename Format, typename T>
__global__ void Values(const uint8_t* blocks, float offset, T* out, int64_t count) {
  constexpr int kEach = Format::kEach;
  const int64_t at = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * kEach;
  if (at >= count) return;
  float v[kEach];
  Format::Read(blocks + at / Format::kValues * Format::kBytes, static_cast<int>(at % Format::kValues), v);
  if (offset != 0) {  // else -0 would become 0
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = __fadd_rn(v[i], offset);
  }
  Store(out + at, v);
}

// What GgufValues is given.
struct Call {
  const uint8_t* blocks;
  float offset;
  Type type;
  void* out;
  int64_t count;
  Stream stream;
};

template <typename Format>
void Launch(const Call& call) {
  constexpr int64_t kValuesABlock = kThreads * Format::kEach;
  const unsigned grid = static_cast<unsigned>((call.count + kValuesABlock - 1) / kValuesABlock);
  auto launch = [&]<typename T>(T* out) {
    Values<Format><<<grid, kThreads, 0, call.stream>>>(call.blocks, call.offset, out, call.count);
  };
  if (call.type == Type::kFloat32) {
    launch(static_cast<float*>(call.out));
  } else {
    launch(static_cast<__nv_bfloat16*>(call.out));
  }
  CheckLaunch();
}

}  // namespace

void GgufValues(GgufFormat format, const void* blocks, float offset, Type type, void* out, int64_t count, Stream stream) {
  const Call call = {static_cast<const uint8_t*>(blocks), offset, type, out, count, stream};
  switch (format) {
    case GgufFormat::kF32: return Launch<F32>(call);
    case GgufFormat::kF16: return Launch<F16>(call);
    case GgufFormat::kBF16: return Launch<BF16>(call);
    case GgufFormat::kQ4_0: return Launch<Q4_0>(call);
    case GgufFormat::kQ4_1: return Launch<Q4_1>(call);
    case GgufFormat::kQ5_0: return Launch<Q5_0>(call);
    case GgufFormat::kQ5_1: return Launch<Q5_1>(call);
    case GgufFormat::kQ8_0: return Launch<Q8_0>(call);
    case GgufFormat::kQ4_K: return Launch<Q4_K>(call);
    case GgufFormat::kQ5_K: return Launch<Q5_K>(call);
    case GgufFormat::kQ6_K: return Launch<Q6_K>(call);
  }
  throw std::runtime_error("CUDA kernel: no such GGUF format");
}

}  // namespace attune::cuda
