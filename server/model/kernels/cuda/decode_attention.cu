// Attention of single queries over the paged cache: keys are split over warps, as FlashDecoding (Dao et al. 2023) splits them over
// blocks. A block has one segment and one head of keys and values, its warps every so many sixteens of keys, each with the largest
// score and the sum so far; at the end they are put together. Keys and values go from memory straight to the registers in which
// the tensor cores want them: which dimension, and which key, stands where in an instruction does not matter as long as both
// operands agree, so each lane may have neighbours.
#include "server/model/kernels/cuda/decode_attention.cuh"

#include <algorithm>

#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kKeys = 16;  // of a warp at a time
constexpr int kHeads = 8;  // of a group: rows of the instruction's 16 that are used
constexpr float kNone = -1e30f;  // below any score

struct Cache {
  const Bf16 *keys, *values;
  int64_t token_stride;  // values from token to token
  int page_tokens;
};

__device__ inline void MultiplyAdd(float (&sum)[4], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
}

__device__ inline uint32_t Pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A lane's part of sixteen keys and their values. Lane 4g + q has of key g, and of key 8 + g, 8 dimensions of each 32 from 8q on;
// and of the values of keys 2q, 2q + 1, 8 + 2q, 9 + 2q, 8 dimensions of each 64 from 8g on.
template <int kHeadDim>
struct Sixteen {
  static constexpr int kKeyParts = kHeadDim / 32, kValueParts = kHeadDim / 64;
  uint4 keys[2][kKeyParts], values[4][kValueParts];

  // Tokens beyond `last` are that one again.
  __device__ void Read(const Cache& cache, const int32_t* pages, int first, int last) {
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int64_t begin = static_cast<int64_t>(pages[first / cache.page_tokens]) * cache.page_tokens + first % cache.page_tokens;
    auto token = [&](int i) { return (begin + min(i, last - first)) * cache.token_stride; };
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const uint4* from = reinterpret_cast<const uint4*>(cache.keys + token(8 * t + g));
#pragma unroll
      for (int part = 0; part < kKeyParts; ++part) keys[t][part] = from[part * 4 + q];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4* from = reinterpret_cast<const uint4*>(cache.values + token(i / 2 * 8 + 2 * q + i % 2));
#pragma unroll
      for (int part = 0; part < kValueParts; ++part) values[i][part] = from[part * 8 + g];
    }
  }
};

// Of head g, over the keys so far: the largest score, the sum of 2^(score - largest), and that sum of values. Value tile
// 8 * part + j, column n is dimension 64 * part + 8n + j.
template <int kHeadDim>
struct Running {
  static constexpr int kTiles = kHeadDim / 8;
  float largest = kNone, sum = 0, values[kTiles][4] = {};

  __device__ void Add(const Sixteen<kHeadDim>& with, const uint4 (&query)[kHeadDim / 32], float scale, int first, int begin,
                      int end) {
    const int q = threadIdx.x % 4;
    float scores[2][4] = {};
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int part = 0; part < kHeadDim / 32; ++part) {
        const uint4 &k = with.keys[t][part], &of = query[part];
        MultiplyAdd(scores[t], of.x, of.y, k.x, k.y);
        MultiplyAdd(scores[t], of.z, of.w, k.z, k.w);
      }
    }
    float most = largest;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = first + 8 * t + 2 * q + i;
        scores[t][i] = key >= begin && key < end ? scores[t][i] * scale : kNone;
        most = fmaxf(most, scores[t][i]);
      }
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const float keep = exp2f(largest - most);
    largest = most;
    float weights[2][2], added = 0;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int i = 0; i < 2; ++i) added += weights[t][i] = exp2f(scores[t][i] - most);
    }
    sum = sum * keep + added;  // of the lane's own keys
    const uint32_t p0 = Pair(weights[0][0], weights[0][1]), p1 = Pair(weights[1][0], weights[1][1]);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int part = tile / 8, j = tile % 8;
      auto word = [&](int i) { return reinterpret_cast<const uint32_t*>(&with.values[i][part])[j / 2]; };
      constexpr uint32_t kLow = 0x5410, kHigh = 0x7632;
      const uint32_t which = j % 2 ? kHigh : kLow;
      values[tile][0] *= keep;
      values[tile][1] *= keep;
      MultiplyAdd(values[tile], p0, p1, __byte_perm(word(0), word(1), which), __byte_perm(word(2), word(3), which));
    }
  }
};

// What the warps found.
template <int kHeadDim, int kWarps>
struct Found {
  float largest[kWarps][kHeads], sums[kWarps][kHeads], values[kWarps][kHeads][kHeadDim];
};

template <int kHeadDim, int kWarps>
__device__ inline void Keep(const Running<kHeadDim>& running, Found<kHeadDim, kWarps>* found) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  float sum = running.sum;
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (q == 0) found->largest[warp][g] = running.largest, found->sums[warp][g] = sum;
#pragma unroll
  for (int tile = 0; tile < Running<kHeadDim>::kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) found->values[warp][g][tile / 8 * 64 + (2 * q + i) * 8 + tile % 8] = running.values[tile][i];
  }
}

template <int kHeadDim, int kWarps>
__device__ inline void PutTogether(const Found<kHeadDim, kWarps>& found, int heads, Bf16* out) {
  for (int i = threadIdx.x; i < heads * (kHeadDim / 2); i += kWarps * 32) {
    const int head = i / (kHeadDim / 2), at = i % (kHeadDim / 2) * 2;
    float most = kNone, sum = 0, low = 0, high = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, found.largest[w][head]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(found.largest[w][head] - most);
      sum += weight * found.sums[w][head];
      low += weight * found.values[w][head][at];
      high += weight * found.values[w][head][at + 1];
    }
    *reinterpret_cast<uint32_t*>(out + head * kHeadDim + at) = Pair(low / sum, high / sum);
  }
}

// Where a segment's keys are, and which its query sees: [begin, end).
struct Seen {
  const int32_t* pages;
  int begin, end;
};
__device__ inline Seen SeenBy(const PagedAttentionPlan& plan, int segment, int page_tokens, int window_before) {
  const int from = plan.page_starts[segment], pages = plan.page_starts[segment + 1] - from;
  const int end = (pages - 1) * page_tokens + plan.last_page_tokens[segment];
  return {plan.pages + from, window_before < 0 ? 0 : max(0, end - 1 - window_before), end};
}

// The query's own token, the last of its keys, is what the kernel before this one adds.
// kBlocks: as many as should find room on a processor. kAhead: sixteens of keys that a warp has on their way.
template <int kHeadDim, int kWarps, int kBlocks, int kAhead>
__global__ void __launch_bounds__(kWarps * 32, kBlocks)
    Decode(PagedAttentionPlan plan, const Bf16* queries, int64_t row_stride, Cache cache, int group, int window_before, float scale,
           Bf16* out) {
  __shared__ Found<kHeadDim, kWarps> found;
  LetNextBegin();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4, head = blockIdx.y;
  if (!plan.tile_used[blockIdx.x]) return;
  const int segment = plan.tile_segments[blockIdx.x];
  const int64_t row = plan.query_starts[segment];
  const Seen seen = SeenBy(plan, segment, cache.page_tokens, window_before);
  cache.keys += head * kHeadDim;
  cache.values += head * kHeadDim;
  constexpr int kStep = kWarps * kKeys;
  int first = seen.begin / kKeys * kKeys + warp * kKeys;
  Sixteen<kHeadDim> sixteens[kAhead];
  auto read = [&](int i) { sixteens[i % kAhead].Read(cache, seen.pages, first + i * kStep, seen.end - 1); };
  auto is_old = [&](int i) { return first + i * kStep + kKeys < seen.end; };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (is_old(i)) read(i);
  }
  WaitForBefore();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (!is_old(i) && first + i * kStep < seen.end) read(i);
  }
  uint4 query[kHeadDim / 32];
#pragma unroll
  for (int part = 0; part < kHeadDim / 32; ++part) {
    const uint4* from = reinterpret_cast<const uint4*>(queries + row * row_stride + (head * group + g) * kHeadDim);
    query[part] = g < group ? from[part * 4 + q] : uint4{};
  }
  Running<kHeadDim> running;
  for (; first < seen.end; first += kAhead * kStep) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kStep >= seen.end) break;
      running.Add(sixteens[i], query, scale, first + i * kStep, seen.begin, seen.end);
      if (first + (kAhead + i) * kStep < seen.end) read(kAhead + i);
    }
  }
  Keep(running, &found);
  __syncthreads();
  PutTogether(found, group, out + (row * gridDim.y + head) * group * kHeadDim);
}

}  // namespace

// Many blocks of wide heads, which have few warps each, read the cache no faster than FlashInfer's do.
bool DecodeAttentionTakes(const PagedAttentionCall& call) {
  return call.are_single_queries && call.partial_out == nullptr && call.shape.heads / call.shape.kv_heads <= kHeads &&
         (call.shape.head_dim == 64 || call.shape.head_dim == 128) && call.page_tokens % kKeys == 0 && call.plan.tile_rows == 16 &&
         call.row_stride % 8 == 0 && (call.shape.head_dim == 64 || call.plan.tiles * call.shape.kv_heads <= 4 * Processors());
}

void DecodeAttention(const PagedAttentionCall& call, Stream stream) {
  constexpr double kLog2OfE = 1.4426950408889634;
  const RopeShape& shape = call.shape;
  const Cache cache{static_cast<const Bf16*>(call.keys), static_cast<const Bf16*>(call.values), shape.kv_heads * shape.head_dim,
                    static_cast<int>(call.page_tokens)};
  const dim3 grid(static_cast<unsigned>(call.plan.tiles), static_cast<unsigned>(shape.kv_heads));
  auto launch = [&]<int kHeadDim, int kWarps, int kBlocks, int kAhead>() {
    LaunchAt(Start::kEarly, Decode<kHeadDim, kWarps, kBlocks, kAhead>, grid, kWarps * 32, 0, stream, call.plan,
             static_cast<const Bf16*>(call.q), call.row_stride, cache, static_cast<int>(shape.heads / shape.kv_heads), call.window_before,
             static_cast<float>(call.scale * kLog2OfE), static_cast<Bf16*>(call.out));
  };
  const int64_t blocks = call.plan.tiles * shape.kv_heads;
  if (shape.head_dim == 128) {
    launch.template operator()<128, 4, 2, 1>();
  } else if (blocks <= Processors()) {
    launch.template operator()<64, 8, 1, 3>();  // few blocks: as many warps, and keys on their way, as may be
  } else if (blocks <= 2 * Processors()) {
    launch.template operator()<64, 8, 2, 2>();
  } else {
    launch.template operator()<64, 4, 4, 2>();
  }
  CheckLaunch();
}

}  // namespace attune::cuda
