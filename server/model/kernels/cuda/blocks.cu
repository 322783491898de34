#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPieces = 8;  // blocks that share a matrix

template <typename Body>
__device__ void ForEach(const BlockCopy& block, int64_t part, const Body& body) {
  const int count = block.rows * block.columns;
  for (int i = blockIdx.y * kThreads + threadIdx.x; i < count; i += kPieces * kThreads) {
    const int row = i / block.columns, column = i - row * block.columns;
    body(block.packed + i, block.spread + part * block.part + static_cast<int64_t>(row) * block.stride + column);
  }
}

template <typename T>
__global__ void Spread(const T* packed, T* spread, const BlockCopy* blocks, int64_t part) {
  ForEach(blocks[blockIdx.x], part, [&](int64_t from, int64_t to) { spread[to] = packed[from]; });
}

__global__ void Collect(const float* spread, float* packed, const BlockCopy* blocks, int64_t part, bool adds) {
  ForEach(blocks[blockIdx.x], part,
          [&](int64_t to, int64_t from) { packed[to] = adds ? packed[to] + spread[from] : spread[from]; });
}

}  // namespace

void SpreadBlocks(Type type, const void* packed, void* spread, const BlockCopy* blocks, int64_t count, int64_t part,
                  Stream stream) {
  Dispatch(type, 1, [&]<typename T, int N>() {
    Spread<T><<<dim3(count, kPieces), kThreads, 0, stream>>>(static_cast<const T*>(packed), static_cast<T*>(spread),
                                                            blocks, part);
  });
}

void CollectBlocks(const float* spread, float* packed, const BlockCopy* blocks, int64_t count, int64_t part, bool adds,
                   Stream stream) {
  Collect<<<dim3(count, kPieces), kThreads, 0, stream>>>(spread, packed, blocks, part, adds);
  CheckLaunch();
}

}  // namespace attune::cuda
