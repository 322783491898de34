#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

constexpr int kThreads = 256;

// A block a page of a store; the threads' reads are independent, so that many are on their way at once.
__global__ void Move(const PageMoves moves, const int64_t* stores, int64_t page_bytes, bool is_out) {
  char* page = reinterpret_cast<char*>(stores[blockIdx.y]) + moves.pages[blockIdx.x] * page_bytes;
  char* slot = static_cast<char*>(moves.slots[blockIdx.x]) + blockIdx.y * page_bytes;
  const uint4* from = reinterpret_cast<const uint4*>(is_out ? page : slot);
  uint4* to = reinterpret_cast<uint4*>(is_out ? slot : page);
  const int64_t count = page_bytes / static_cast<int64_t>(sizeof(uint4));
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) to[i] = from[i];
}

}  // namespace

void MovePages(const PageMoves& moves, const int64_t* stores, int64_t store_count, int64_t page_bytes, bool is_out,
               Stream stream) {
  if (page_bytes % static_cast<int64_t>(sizeof(uint4)) != 0) throw std::runtime_error("pages of an odd size");
  Move<<<dim3(moves.count, store_count), kThreads, 0, stream>>>(moves, stores, page_bytes, is_out);
  CheckLaunch();
}

}  // namespace attune::cuda
