#ifndef ATTUNE_SERVER_ENGINE_PAGE_COPIES_H_
#define ATTUNE_SERVER_ENGINE_PAGE_COPIES_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "server/model/kernels/paged_attention.h"

namespace attune {

// Copies of pages of a KV cache, in all layers: to other pages, and to host memory, which has a slot for each, and back. For a cache on
// a GPU the memory is pinned, and copies go to the calling thread's stream, which must always be the same:
// each comes behind the work that was asked for before, and before what is asked for later. Whoever destroys
// this waits for the stream first. Not thread-safe.
class PageCopies {
 public:
  // Whether pages of this cache can be copied: on a GPU there must be kernels of our own for it.
  static bool Serves(const KvCache& cache);

  // `cache` must outlive this. REQUIRES: Serves(*cache).
  explicit PageCopies(const KvCache* cache);

  // Each pair's first page to its second. REQUIRES: no page is the first of one pair and the second of another.
  void CopyWithin(const std::vector<std::pair<int32_t, int32_t>>& from_to);

  // Of a page in all layers.
  int64_t slot_bytes() const { return static_cast<int64_t>(stores_.size()) * page_bytes_; }
  // Makes so many slots more. Throws what libtorch throws, and then there are as many as before.
  void Grow(int64_t slots);

  // Page i goes to slot i, or comes from it.
  void CopyOut(const std::vector<int32_t>& pages, const std::vector<int32_t>& slots);
  void CopyIn(const std::vector<int32_t>& pages, const std::vector<int32_t>& slots);

 private:
  enum class Direction { kOut, kIn };
  void Copy(const std::vector<int32_t>& pages, const std::vector<int32_t>& slots, Direction direction);
  void CopyOnHost(int32_t page, int32_t slot, Direction direction);

  const bool is_gpu_;
  std::vector<char*> stores_;  // keys and values of each layer
  at::Tensor stores_on_device_;
  int64_t page_bytes_ = 0;          // of a page in a store
  std::vector<at::Tensor> pieces_;  // own the slots
  std::vector<char*> slots_;        // a page of each store, one behind the other
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_PAGE_COPIES_H_
