#include "server/model/kernels/paged_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "server/model/kernels/fast_math.h"
#include "server/model/kernels/gemm.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace attune {
namespace {

using at::Tensor;

constexpr int64_t kRowBlock = 64;

// The slot of a sequence's token.
int64_t SlotOf(const PagedSegment& segment, int64_t position, int64_t page_tokens) {
  return segment.pages[position / page_tokens] * page_tokens + position % page_tokens;
}

void Softmax(float* row, int64_t n) {
  float top = row[0];
  for (int64_t j = 1; j < n; ++j) top = std::max(top, row[j]);
  for (int64_t j = 0; j < n; ++j) row[j] = FastExp(row[j] - top);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += row[j];
  const float inverse = 1.0f / sum;
  for (int64_t j = 0; j < n; ++j) row[j] *= inverse;
}

// What a thread needs to attend in one layer.
struct LayerView {
  const float* qkv;
  float* out;
  const float *keys, *values;
  int64_t page_tokens;
  AttentionShape shape;
  int64_t qkv_stride() const { return shape.q_size() + 2 * shape.kv_size(); }
  float scale() const { return static_cast<float>(shape.score_scale()); }
};

// Scores under the soft cap, if there is one.
void Cap(const AttentionShape& shape, float* row, int64_t n) {
  if (shape.softcap <= 0) return;
  const float cap = static_cast<float>(shape.softcap);
  for (int64_t j = 0; j < n; ++j) row[j] = cap * std::tanh(row[j] / cap);
}

#if defined(__AVX2__) && defined(__FMA__)

inline float Sum(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// scores[j] = scale * q . k_j for `count` keys, `stride` apart. REQUIRES: d is a multiple of 16.
void ScoreKeys(const float* q, const float* k, int64_t count, int64_t stride, int64_t d, float scale, float* scores) {
  for (int64_t j = 0; j < count; ++j, k += stride) {
    __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    for (int64_t i = 0; i < d; i += 16) {
      even = _mm256_fmadd_ps(_mm256_loadu_ps(q + i), _mm256_loadu_ps(k + i), even);
      odd = _mm256_fmadd_ps(_mm256_loadu_ps(q + i + 8), _mm256_loadu_ps(k + i + 8), odd);
    }
    scores[j] = Sum(_mm256_add_ps(even, odd)) * scale;
  }
}

// out += sum over j of p[j] v_j. REQUIRES: d is a multiple of 64.
void AddValues(const float* p, const float* v, int64_t count, int64_t stride, int64_t d, float* out) {
  for (int64_t i = 0; i < d; i += 64, v += 64, out += 64) {
    __m256 sums[8];
    for (int r = 0; r < 8; ++r) sums[r] = _mm256_loadu_ps(out + 8 * r);
    for (int64_t j = 0; j < count; ++j) {
      const __m256 weight = _mm256_set1_ps(p[j]);
      for (int r = 0; r < 8; ++r) sums[r] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(v + j * stride + 8 * r), sums[r]);
    }
    for (int r = 0; r < 8; ++r) _mm256_storeu_ps(out + 8 * r, sums[r]);
  }
}

// One new token of heads as wide as most models have them: page by page, sums in registers.
bool AttendOneFast(const LayerView& view, const PagedSegment& segment, int64_t kv_head, std::vector<float>* scratch) {
  const int64_t d = view.shape.head_dim, group = view.shape.heads / view.shape.kv_heads;
  if (d % 64 != 0) return false;
  const int64_t begin = view.shape.FirstSeen(segment.context), end = segment.context + 1, n = end - begin;
  const int64_t stride = view.shape.kv_size(), page = view.page_tokens;
  const float* q = view.qkv + segment.first_token * view.qkv_stride() + kv_head * group * d;
  float* out = view.out + segment.first_token * view.shape.q_size() + kv_head * group * d;
  scratch->resize(group * n);
  float* s = scratch->data();
  const auto for_pages = [&](const auto& visit) {
    for (int64_t j = begin, next; j < end; j = next) {
      next = std::min((j / page + 1) * page, end);
      visit(j - begin, next - j, SlotOf(segment, j, page) * stride + kv_head * d);
    }
  };
  for_pages([&](int64_t j, int64_t count, int64_t offset) {
    for (int64_t g = 0; g < group; ++g) {
      ScoreKeys(q + g * d, view.keys + offset, count, stride, d, view.scale(), s + g * n + j);
    }
  });
  Cap(view.shape, s, group * n);
  for (int64_t g = 0; g < group; ++g) Softmax(s + g * n, n);
  std::fill(out, out + group * d, 0.0f);
  for_pages([&](int64_t j, int64_t count, int64_t offset) {
    for (int64_t g = 0; g < group; ++g) AddValues(s + g * n + j, view.values + offset, count, stride, d, out + g * d);
  });
  return true;
}

#else

bool AttendOneFast(const LayerView&, const PagedSegment&, int64_t, std::vector<float>*) { return false; }

#endif

// One new token: keys and values are read where they lie.
void AttendOne(const LayerView& view, const PagedSegment& segment, int64_t kv_head, std::vector<float>* scratch) {
  if (AttendOneFast(view, segment, kv_head, scratch)) return;
  const int64_t d = view.shape.head_dim, group = view.shape.heads / view.shape.kv_heads;
  const int64_t begin = view.shape.FirstSeen(segment.context), n = segment.context + 1 - begin;
  const int64_t slot_stride = view.shape.kv_size();
  const float* q = view.qkv + segment.first_token * view.qkv_stride() + kv_head * group * d;
  float* out = view.out + segment.first_token * view.shape.q_size() + kv_head * group * d;
  scratch->resize(group * n);
  float* s = scratch->data();
  const float scale = view.scale();
  for (int64_t j = 0; j < n; ++j) {
    const float* k = view.keys + SlotOf(segment, begin + j, view.page_tokens) * slot_stride + kv_head * d;
    for (int64_t g = 0; g < group; ++g) {
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < d; ++i) dot += q[g * d + i] * k[i];
      s[g * n + j] = dot * scale;
    }
  }
  Cap(view.shape, s, group * n);
  for (int64_t g = 0; g < group; ++g) Softmax(s + g * n, n);
  std::fill(out, out + group * d, 0.0f);
  for (int64_t j = 0; j < n; ++j) {
    const float* v = view.values + SlotOf(segment, begin + j, view.page_tokens) * slot_stride + kv_head * d;
    for (int64_t g = 0; g < group; ++g) {
      const float p = s[g * n + j];
      for (int64_t i = 0; i < d; ++i) out[g * d + i] += p * v[i];
    }
  }
}

// Many new tokens: keys and values are gathered once, then products do the work.
void AttendMany(const LayerView& view, const PagedSegment& segment, int64_t kv_head, std::vector<float>* scratch) {
  const int64_t d = view.shape.head_dim, group = view.shape.heads / view.shape.kv_heads;
  const AttentionShape& shape = view.shape;
  const int64_t begin = shape.FirstSeen(segment.context), n = segment.context + segment.tokens - begin;
  const int64_t slot_stride = shape.kv_size();
  scratch->resize(2 * n * d + std::min(kRowBlock, segment.tokens) * n);
  float *k = scratch->data(), *v = k + n * d, *s = v + n * d;
  for (int64_t j = 0; j < n; ++j) {
    const int64_t offset = SlotOf(segment, begin + j, view.page_tokens) * slot_stride + kv_head * d;
    std::copy(view.keys + offset, view.keys + offset + d, k + j * d);
    std::copy(view.values + offset, view.values + offset + d, v + j * d);
  }
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    for (int64_t i = 0; i < segment.tokens; i += kRowBlock) {
      const int64_t rows = std::min(kRowBlock, segment.tokens - i), position = segment.context + i;
      const int64_t first = shape.FirstSeen(position), seen = position + rows - first;  // keys of the block
      const float* q = view.qkv + (segment.first_token + i) * view.qkv_stride() + h * d;
      Gemm{rows, seen, d, view.scale()}.NT(q, view.qkv_stride(), k + (first - begin) * d, d, s, seen);
      Cap(shape, s, rows * seen);
      for (int64_t r = 0; r < rows; ++r) {
        float* row = s + r * seen;
        const int64_t from = shape.FirstSeen(position + r) - first, to = position + r + 1 - first;
        std::fill(row, row + from, 0.0f);
        Softmax(row + from, to - from);
        std::fill(row + to, row + seen, 0.0f);
      }
      Gemm{rows, d, seen}.NN(s, seen, v + (first - begin) * d, d, view.out + (segment.first_token + i) * view.shape.q_size() + h * d,
                             view.shape.q_size());
    }
  }
}

// Each new token as if it were the only one: products round by how many there are, and where they lie.
void AttendEach(const LayerView& view, const std::vector<PagedSegment>& segments) {
  std::vector<std::pair<const PagedSegment*, int64_t>> tokens;
  for (const PagedSegment& segment : segments) {
    for (int64_t i = 0; i < segment.tokens; ++i) tokens.emplace_back(&segment, i);
  }
  const int64_t kv_heads = view.shape.kv_heads;
  at::parallel_for(0, static_cast<int64_t>(tokens.size()) * kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    const PagedSegment* copied = nullptr;
    PagedSegment one;
    for (int64_t task = begin; task < end; ++task) {
      const auto& [segment, token] = tokens[task / kv_heads];
      if (segment != copied) one = *(copied = segment);
      one.tokens = 1;
      one.first_token = segment->first_token + token;
      one.context = segment->context + token;
      AttendOne(view, one, task % kv_heads, &scratch);
    }
  });
}

Tensor AttendLoops(const Tensor& qkv, const AttentionShape& shape, const PagedBatch& batch, const KvCache& cache,
                   int64_t layer) {
  Tensor out = at::empty({qkv.size(0), shape.q_size()}, qkv.options());
  LayerView view{qkv.const_data_ptr<float>(), out.mutable_data_ptr<float>(), cache.keys[layer].const_data_ptr<float>(),
                 cache.values[layer].const_data_ptr<float>(), cache.page_tokens, shape};
  if (batch.is_alike) {
    AttendEach(view, batch.segments);
    return out;
  }
  const int64_t tasks = static_cast<int64_t>(batch.segments.size()) * shape.kv_heads;
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const PagedSegment& segment = batch.segments[task / shape.kv_heads];
      const auto attend = segment.tokens == 1 ? AttendOne : AttendMany;
      attend(view, segment, task % shape.kv_heads, &scratch);
    }
  });
  return out;
}

// On GPUs in half precision, without a soft cap: all segments in one call of FlashAttention (Dao 2023),
// whose causal mask lets a segment's last query see its last key.
Tensor AttendFlash(const Tensor& qkv, const AttentionShape& shape, const PagedBatch& batch, const KvCache& cache,
                   int64_t layer) {
  const Tensor q = qkv.narrow(1, 0, shape.q_size()).view({qkv.size(0), shape.heads, shape.head_dim});
  const Tensor k = cache.keys[layer].index_select(0, batch.key_slots_K);
  const Tensor v = cache.values[layer].index_select(0, batch.key_slots_K);
  std::optional<int64_t> before, after;  // tokens that one sees beside itself
  if (shape.window > 0) before = shape.window - 1, after = 0;
  return std::get<0>(at::_flash_attention_forward(q, k, v, batch.query_starts, batch.key_starts, batch.most_queries,
                                                  batch.most_keys, 0.0, /*is_causal=*/true,
                                                  /*return_debug_mask=*/false, shape.score_scale(), before, after))
      .reshape({qkv.size(0), shape.q_size()});
}

// Attention of queries B x heads x rows x head_dim over as many heads of keys and values; mask true where seen.
Tensor Attended(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const AttentionShape& shape) {
  if (shape.softcap <= 0) return at::scaled_dot_product_attention(q, k, v, mask, 0.0, false, shape.score_scale());
  const Tensor scores = at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(2, 3)) * shape.score_scale();
  const Tensor capped = (scores / shape.softcap).tanh() * shape.softcap;
  return at::matmul(capped.masked_fill(mask.logical_not(), -INFINITY).softmax(-1), v.to(at::kFloat)).to(q.scalar_type());
}

// Through ATen, for other types and devices: one padded gather for all single-token
// segments, one product each for the longer ones.
Tensor AttendAten(const Tensor& qkv, const AttentionShape& shape, const PagedBatch& batch, const KvCache& cache,
                  int64_t layer) {
  Tensor out = at::empty({qkv.size(0), shape.q_size()}, qkv.options());
  Tensor q = qkv.narrow(1, 0, shape.q_size()).view({qkv.size(0), shape.heads, shape.head_dim});
  auto attend = [&](const std::vector<const PagedSegment*>& segments) {
    const int64_t count = segments.size(), rows = segments[0]->tokens;
    int64_t longest = 0;
    for (const PagedSegment* s : segments) longest = std::max(longest, s->context + s->tokens);
    Tensor slots = at::zeros({count, longest}, at::kLong), mask = at::zeros({count, rows, longest}, at::kBool);
    Tensor queries = at::empty({count, rows}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      const PagedSegment& s = *segments[i];
      for (int64_t j = 0; j < s.context + s.tokens; ++j) {
        slots.mutable_data_ptr<int64_t>()[i * longest + j] = SlotOf(s, j, cache.page_tokens);
      }
      for (int64_t r = 0; r < rows; ++r) {
        queries.mutable_data_ptr<int64_t>()[i * rows + r] = s.first_token + r;
        bool* seen = mask.mutable_data_ptr<bool>() + (i * rows + r) * longest;
        std::fill(seen + shape.FirstSeen(s.context + r), seen + s.context + r + 1, true);
      }
    }
    slots = slots.to(qkv.device());
    queries = queries.to(qkv.device());
    auto gather = [&](const Tensor& store) {
      return store.index_select(0, slots.view(-1))
          .view({count, longest, shape.kv_heads, shape.head_dim}).transpose(1, 2)
          .repeat_interleave(shape.heads / shape.kv_heads, 1);
    };
    Tensor qs = q.index_select(0, queries.view(-1)).view({count, rows, shape.heads, shape.head_dim}).transpose(1, 2);
    Tensor y = Attended(qs, gather(cache.keys[layer]), gather(cache.values[layer]), mask.to(qkv.device()).unsqueeze(1),
                        shape);
    out.index_copy_(0, queries.view(-1), y.transpose(1, 2).reshape({count * rows, shape.q_size()}));
  };
  std::vector<const PagedSegment*> singles;
  for (const PagedSegment& segment : batch.segments) {
    if (segment.tokens == 1) {
      singles.push_back(&segment);
    } else {
      attend({&segment});
    }
  }
  if (!singles.empty()) attend(singles);
  return out;
}

}  // namespace

KvCache MakeKvCache(int64_t layers, int64_t pages, int64_t page_tokens, const AttentionShape& shape,
                    const at::TensorOptions& options) {
  KvCache cache;
  cache.page_tokens = page_tokens;
  // The CPU's loops read only what was written, so fp32 there need not touch gigabytes
  // at the start; the padded gathers multiply what they mask by zero, which must be finite.
  const bool loops = options.device().is_cpu() && options.dtype() == at::kFloat;
  auto make = [&] {
    const std::vector<int64_t> sizes = {pages * page_tokens, shape.kv_heads, shape.head_dim};
    return loops ? at::empty(sizes, options) : at::zeros(sizes, options);
  };
  for (int64_t i = 0; i < layers; ++i) {
    cache.keys.push_back(make());
    cache.values.push_back(make());
  }
  return cache;
}

void CopyPages(KvCache* cache, const std::vector<std::pair<int32_t, int32_t>>& from_to) {
  for (auto [from, to] : from_to) {
    for (std::vector<Tensor>* stores : {&cache->keys, &cache->values}) {
      for (Tensor& store : *stores) {
        store.narrow(0, to * cache->page_tokens, cache->page_tokens)
            .copy_(store.narrow(0, from * cache->page_tokens, cache->page_tokens));
      }
    }
  }
}

namespace {

void AddKeySlots(int64_t page_tokens, at::Device device, PagedBatch* batch) {
  std::vector<int64_t> slots;
  std::vector<int32_t> query_starts = {0}, key_starts = {0};
  for (const PagedSegment& segment : batch->segments) {
    const int64_t keys = segment.context + segment.tokens;
    for (int64_t j = 0; j < keys; ++j) slots.push_back(SlotOf(segment, j, page_tokens));
    query_starts.push_back(query_starts.back() + static_cast<int32_t>(segment.tokens));
    key_starts.push_back(static_cast<int32_t>(slots.size()));
    batch->most_queries = std::max(batch->most_queries, segment.tokens);
    batch->most_keys = std::max(batch->most_keys, keys);
  }
  batch->key_slots_K = at::tensor(slots, at::kLong).to(device);
  batch->query_starts = at::tensor(query_starts, at::kInt).to(device);
  batch->key_starts = at::tensor(key_starts, at::kInt).to(device);
}

}  // namespace

PagedBatch MakePagedBatch(std::vector<PagedSegment> segments, int64_t page_tokens, at::Device device) {
  std::vector<int64_t> positions, slots;
  for (const PagedSegment& segment : segments) {
    for (int64_t i = 0; i < segment.tokens; ++i) {
      positions.push_back(segment.context + i);
      slots.push_back(SlotOf(segment, segment.context + i, page_tokens));
    }
  }
  PagedBatch batch;
  batch.positions_T = at::tensor(positions, at::kLong).to(device);
  batch.slots_T = at::tensor(slots, at::kLong).to(device);
  batch.segments = std::move(segments);
  if (device.is_cuda()) AddKeySlots(page_tokens, device, &batch);
  return batch;
}

Tensor PagedAttention(Tensor qkv_TE, const AttentionShape& shape, const RopeTable& rope, const PagedBatch& batch,
                      KvCache* cache, int64_t layer) {
  RopeInPlace(qkv_TE, shape, rope, batch.positions_T, /*inverse=*/false);
  const std::vector<int64_t> heads = {qkv_TE.size(0), shape.kv_heads, shape.head_dim};
  cache->keys[layer].index_copy_(0, batch.slots_T, qkv_TE.narrow(1, shape.q_size(), shape.kv_size()).view(heads));
  cache->values[layer].index_copy_(
      0, batch.slots_T, qkv_TE.narrow(1, shape.q_size() + shape.kv_size(), shape.kv_size()).view(heads));
  if (qkv_TE.is_cpu() && qkv_TE.scalar_type() == at::kFloat) return AttendLoops(qkv_TE, shape, batch, *cache, layer);
  constexpr int64_t kMostFlashHeadDim = 256;
  const bool is_flash = qkv_TE.is_cuda() && qkv_TE.scalar_type() != at::kFloat && shape.softcap == 0 &&
                        shape.head_dim <= kMostFlashHeadDim;
  if (is_flash) return AttendFlash(qkv_TE, shape, batch, *cache, layer);
  return AttendAten(qkv_TE, shape, batch, *cache, layer);
}

}  // namespace attune
