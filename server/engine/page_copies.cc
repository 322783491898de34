#include "server/engine/page_copies.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "server/model/kernels/cuda_dispatch.h"

namespace attune {

bool PageCopies::Serves(const KvCache& cache) { return !cache.keys[0].is_cuda() || UsesCudaKernels(cache.keys[0]); }

PageCopies::PageCopies(const KvCache* cache) : is_gpu_(cache->keys[0].is_cuda()) {
  for (size_t layer = 0; layer < cache->keys.size(); ++layer) {
    for (const at::Tensor* store : {&cache->keys[layer], &cache->values[layer]}) {
      stores_.push_back(static_cast<char*>(store->mutable_data_ptr()));
    }
  }
  const at::Tensor& store = cache->keys[0];
  page_bytes_ = cache->page_tokens * store.stride(0) * static_cast<int64_t>(store.element_size());
  if (!is_gpu_) return;
  std::vector<int64_t> addresses;
  for (const char* address : stores_) addresses.push_back(reinterpret_cast<int64_t>(address));
  stores_on_device_ = at::tensor(addresses, at::kLong).to(store.device());
}

void PageCopies::Grow(int64_t slots) {
  const at::Tensor piece = at::empty({slots, slot_bytes()}, at::TensorOptions(at::kByte).pinned_memory(is_gpu_));
  pieces_.push_back(piece);
  for (int64_t i = 0; i < slots; ++i) {
    slots_.push_back(static_cast<char*>(piece.mutable_data_ptr()) + i * slot_bytes());
  }
}

void PageCopies::CopyWithin(const std::vector<std::pair<int32_t, int32_t>>& from_to) {
  if (!is_gpu_) {
    for (auto [from, to] : from_to) {
      for (char* store : stores_) std::memcpy(store + to * page_bytes_, store + from * page_bytes_, page_bytes_);
    }
    return;
  }
  for (size_t first = 0; first < from_to.size(); first += cuda::PagePairs::kMost) {
    cuda::PagePairs pairs;
    pairs.count = static_cast<int32_t>(std::min<size_t>(from_to.size() - first, cuda::PagePairs::kMost));
    for (int32_t i = 0; i < pairs.count; ++i) std::tie(pairs.from[i], pairs.to[i]) = from_to[first + i];
    cuda::CopyPages(pairs, stores_on_device_.const_data_ptr<int64_t>(), static_cast<int64_t>(stores_.size()),
                    page_bytes_, CurrentCudaStream());
  }
}

void PageCopies::CopyOut(const std::vector<int32_t>& pages, const std::vector<int32_t>& slots) {
  Copy(pages, slots, Direction::kOut);
}

void PageCopies::CopyIn(const std::vector<int32_t>& pages, const std::vector<int32_t>& slots) {
  Copy(pages, slots, Direction::kIn);
}

void PageCopies::Copy(const std::vector<int32_t>& pages, const std::vector<int32_t>& slots, Direction direction) {
  if (!is_gpu_) {
    for (size_t i = 0; i < pages.size(); ++i) CopyOnHost(pages[i], slots[i], direction);
    return;
  }
  for (size_t first = 0; first < pages.size(); first += cuda::PageMoves::kMost) {
    cuda::PageMoves moves;
    moves.count = static_cast<int32_t>(std::min<size_t>(pages.size() - first, cuda::PageMoves::kMost));
    for (int32_t i = 0; i < moves.count; ++i) {
      moves.pages[i] = pages[first + i];
      moves.slots[i] = slots_[slots[first + i]];
    }
    cuda::MovePages(moves, stores_on_device_.const_data_ptr<int64_t>(), static_cast<int64_t>(stores_.size()),
                    page_bytes_, direction == Direction::kOut, CurrentCudaStream());
  }
}

void PageCopies::CopyOnHost(int32_t page, int32_t slot, Direction direction) {
  char* in_slot = slots_[slot];
  for (char* store : stores_) {
    char* in_store = store + page * page_bytes_;
    if (direction == Direction::kOut) {
      std::memcpy(in_slot, in_store, page_bytes_);
    } else {
      std::memcpy(in_store, in_slot, page_bytes_);
    }
    in_slot += page_bytes_;
  }
}

}  // namespace attune
