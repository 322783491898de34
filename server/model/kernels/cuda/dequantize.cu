#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256, kEach = 16;  // values a thread: a quarter of a block

struct Levels {
  float v[16];
};

template <typename T>
__global__ void Nf4(const uint2* data, const float* scales, const Levels levels, T* out, int64_t count) {
  __shared__ float table[16];
  if (threadIdx.x < 16) table[threadIdx.x] = levels.v[threadIdx.x];
  __syncthreads();
  const int64_t part = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (part * kEach >= count) return;
  const uint2 packed = data[part];
  const float scale = scales[part * kEach / kQuantizedBlock];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t word = half ? packed.y : packed.x;
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = table[word >> (8 * (i / 2) + (i % 2 ? 0 : 4)) & 15] * scale;
    Store(out + part * kEach + half * 8, v);
  }
}

template <typename T>
__global__ void Int8(const uint4* data, const float* scales, T* out, int64_t count) {
  const int64_t part = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (part * kEach >= count) return;
  const uint4 packed = data[part];
  const float scale = scales[part * kEach / kQuantizedBlock] / 127;
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      v[i] = static_cast<float>(static_cast<int8_t>(words[2 * half + i / 4] >> (8 * (i % 4)))) * scale;
    }
    Store(out + part * kEach + half * 8, v);
  }
}

template <typename T>
void Launch(Codes codes, const void* data, const float* scales, T* out, int64_t count, Stream stream) {
  const unsigned blocks = static_cast<unsigned>((count / kEach + kThreads - 1) / kThreads);
  if (codes == Codes::kInt8) {
    Int8<<<blocks, kThreads, 0, stream>>>(static_cast<const uint4*>(data), scales, out, count);
    return;
  }
  Levels levels;
  for (int i = 0; i < 16; ++i) levels.v[i] = kNf4Levels[i];
  Nf4<<<blocks, kThreads, 0, stream>>>(static_cast<const uint2*>(data), scales, levels, out, count);
}

}  // namespace

void Dequantize(Codes codes, const void* data, const float* scales, Type type, void* out, int64_t count,
                Stream stream) {
  if (type == Type::kFloat32) {
    Launch(codes, data, scales, static_cast<float*>(out), count, stream);
  } else {
    Launch(codes, data, scales, static_cast<__nv_bfloat16*>(out), count, stream);
  }
  CheckLaunch();
}

}  // namespace attune::cuda
