#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline void CopyBlock(const char* from, char* to, int64_t bytes) {
  const int64_t count = bytes / static_cast<int64_t>(sizeof(uint4));
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  }
}

__global__ void CopyInside(const PagePairs pairs, const int64_t* stores, int64_t page_bytes) {
  char* store = reinterpret_cast<char*>(stores[blockIdx.y]);
  CopyBlock(store + pairs.from[blockIdx.x] * page_bytes, store + pairs.to[blockIdx.x] * page_bytes, page_bytes);
}

void CheckSize(int64_t page_bytes) {
  if (page_bytes % static_cast<int64_t>(sizeof(uint4)) != 0) throw std::runtime_error("pages of an odd size");
}

// A block a page of a store; the threads' reads are independent, so that many are on their way at once.
__global__ void Move(const PageMoves moves, const int64_t* stores, int64_t page_bytes, bool is_out) {
  char* page = reinterpret_cast<char*>(stores[blockIdx.y]) + moves.pages[blockIdx.x] * page_bytes;
  char* slot = static_cast<char*>(moves.slots[blockIdx.x]) + blockIdx.y * page_bytes;
  CopyBlock(is_out ? page : slot, is_out ? slot : page, page_bytes);
}

}  // namespace

void MovePages(const PageMoves& moves, const int64_t* stores, int64_t store_count, int64_t page_bytes, bool is_out,
               Stream stream) {
  CheckSize(page_bytes);
  Move<<<dim3(moves.count, store_count), kThreads, 0, stream>>>(moves, stores, page_bytes, is_out);
  CheckLaunch();
}

void CopyPages(const PagePairs& pairs, const int64_t* stores, int64_t store_count, int64_t page_bytes, Stream stream) {
  CheckSize(page_bytes);
  CopyInside<<<dim3(pairs.count, store_count), kThreads, 0, stream>>>(pairs, stores, page_bytes);
  CheckLaunch();
}

}  // namespace attune::cuda
