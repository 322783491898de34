#ifndef ATTUNE_SERVER_MODEL_KERNELS_PAGED_ATTENTION_H_
#define ATTUNE_SERVER_MODEL_KERNELS_PAGED_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "server/model/kernels/attention.h"

namespace attune {

// Keys (already rotated) and values of every cached token, by slot: page p holds
// slots [p * page_tokens, (p + 1) * page_tokens). One pair of tensors a layer,
// S slots x kv_heads x head_dim in the compute type. Not thread-safe.
struct KvCache {
  std::vector<at::Tensor> keys, values;
  int64_t page_tokens = 0;
};

// Empty caches for `layers` layers of `pages` pages.
KvCache MakeKvCache(int64_t layers, int64_t pages, int64_t page_tokens, const AttentionShape& shape,
                    const at::TensorOptions& options);

// Copies whole pages in every layer.
void CopyPages(KvCache* cache, const std::vector<std::pair<int32_t, int32_t>>& from_to);

// Part of one sequence in a batch: `tokens` new tokens behind `context` cached ones.
struct PagedSegment {
  int64_t first_token = 0;  // row in the batch
  int64_t tokens = 0;
  int64_t context = 0;
  std::vector<int32_t> pages;  // in sequence order; enough for context + tokens
};

// A batch of segments in row order with the index tensors that kernels need.
struct PagedBatch {
  std::vector<PagedSegment> segments;
  at::Tensor positions_T;  // int64, on the device
  at::Tensor slots_T;      // int64, on the device: where each new token's key goes
  // For GPU kernels, else undefined: where the keys of every segment's sequence are,
  // cached and new, one segment behind the other (int64); where each segment's queries
  // and keys start, and their ends (int32).
  at::Tensor key_slots_K, query_starts, key_starts;
  int64_t most_queries = 0, most_keys = 0;  // of a segment
  // On a CPU in fp32: a token's result is the same, bit for bit, in whatever pieces its sequence came.
  bool is_alike = false;
};
PagedBatch MakePagedBatch(std::vector<PagedSegment> segments, int64_t page_tokens, at::Device device);

// Rotates queries and keys of qkv_TE in place, stores keys and values of the new
// tokens into the layer's cache, and lets each query see its sequence's tokens up to
// itself, of these the ones in the window. Returns T x q_size. No autograd.
at::Tensor PagedAttention(at::Tensor qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                          const PagedBatch& batch, KvCache* cache, int64_t layer);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_PAGED_ATTENTION_H_
