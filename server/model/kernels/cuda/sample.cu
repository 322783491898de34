#include <cfloat>

#include "server/model/kernels/cuda/common.cuh"
#include "server/model/kernels/cuda/rank.cuh"

namespace attune::cuda {
namespace {

using Bf16 = __nv_bfloat16;
using Weight = unsigned long long;

// Tokens stand in the order in which they are drawn: by how far they are below the likeliest, in
// temperatures, cut into kCoarse bins of 1/64 and each of those into kFine; then by id. Two logits
// that share a bin weigh the same to a part in 2^16. Nothing beyond the last bin but one has weight.
constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kCoarse = 2048, kFine = 1024;
constexpr float kBinsPerUnit = 64;
// Weights are whole numbers, so that their sums are the same in whatever order threads add them.
constexpr float kOne = 1099511627776.0f;  // 2^40: the likeliest token's

struct Bins {
  Weight coarse_weight[kCoarse], fine_weight[kFine];
  unsigned coarse_count[kCoarse], fine_count[kFine];
};

// A place in the order: in bins, and among the tokens of a bin.
struct Place {
  int coarse, fine;
  unsigned index;
  Weight each;    // of the bin's tokens
  Weight before;  // of all tokens before the place
};

// Which tokens there may be; all without `words`.
struct Mask {
  const uint32_t* words;
  int64_t count;

  __device__ bool Allows(int token) const { return (Eight(token) & 1) != 0; }
  // A bit for each of the tokens from `token` on, which lie in one word.
  __device__ uint32_t Eight(int token) const {
    if (!words) return 0xff;
    return token / 32 < count ? words[token / 32] >> (token % 32) : 0;
  }
};

// A row of logits: as the product made it, but for what a mask forbids, or as the request changed it.
struct Row {
  const Bf16* raw;
  const float* changed;
  int vocabulary;
  Mask mask;  // of `raw`

  __device__ float At(int i) const { return changed ? changed[i] : mask.Allows(i) ? ToFloat(raw[i]) : -FLT_MAX; }
  // eight(first, logits) on some thread of the block, for neighbouring tokens.
  template <typename Body>
  __device__ void ForEachEight(const Body& eight) const {
    constexpr int N = kWide<Bf16>;
    static_assert(N == 8);
    for (int i = threadIdx.x * N; i < vocabulary; i += kThreads * N) {
      float v[N];
      if (changed) {
        float lower[N / 2], upper[N / 2];
        Load(changed + i, lower);
        Load(changed + i + N / 2, upper);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = j < N / 2 ? lower[j % (N / 2)] : upper[j % (N / 2)];
      } else {
        Load(raw + i, v);
        const uint32_t allowed = mask.Eight(i);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = (allowed >> j & 1) != 0 ? v[j] : -FLT_MAX;
      }
      eight(i, v);
    }
  }
  __device__ bool HasEights() const { return vocabulary % kWide<Bf16> == 0; }
  // body(token, logit) on some thread of the block, for each token.
  template <typename Body>
  __device__ void ForEach(const Body& body) const {
    if (!HasEights()) {
      for (int i = threadIdx.x; i < vocabulary; i += kThreads) body(i, At(i));
      return;
    }
    ForEachEight([&](int first, const float (&v)[kWide<Bf16>]) {
#pragma unroll
      for (int j = 0; j < kWide<Bf16>; ++j) body(first + j, v[j]);
    });
  }
  // Copies it for the request to change.
  __device__ void CopyTo(float* to) const {
    if (!HasEights()) {
      ForEach([&](int i, float logit) { to[i] = logit; });
      return;
    }
    ForEachEight([&](int first, const float (&v)[kWide<Bf16>]) {
      Store(to + first, {v[0], v[1], v[2], v[3]});
      Store(to + first + 4, {v[4], v[5], v[6], v[7]});
    });
  }
};

__device__ inline float Change(float logit, const ChosenRow& row, int count, bool is_seen, float bias, bool is_banned) {
  if (is_seen) logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  if (count > 0) logit -= row.frequency_penalty * count + row.presence_penalty;
  return is_banned ? -FLT_MAX : logit + bias;
}

// Writes the changed row. `pending`: a token of the answer that the list does not know yet, or -1.
__device__ void ApplyChanges(const Row& from, const ChosenRow& row, const LogitChange* changes, int pending, float* to) {
  __shared__ bool is_listed;
  if (threadIdx.x == 0) is_listed = false;
  from.CopyTo(to);
  __syncthreads();
  for (int i = threadIdx.x; i < row.changes; i += kThreads) {
    const LogitChange& change = changes[i];
    const bool is_pending = change.token == pending;
    if (is_pending) is_listed = true;
    if (!from.mask.Allows(change.token)) continue;
    to[change.token] = Change(to[change.token], row, change.count + is_pending, change.is_seen || is_pending,
                              change.bias, change.is_banned);
  }
  __syncthreads();
  if (threadIdx.x == 0 && pending >= 0 && !is_listed && from.mask.Allows(pending)) {
    to[pending] = Change(to[pending], row, 1, true, 0, false);
  }
  __syncthreads();
}

// The best rank below `bound`, in the whole row.
__device__ unsigned long long Best(const Row& row, unsigned long long bound, unsigned long long* shared) {
  unsigned long long best = 0;
  row.ForEach([&](int i, float logit) {
    const unsigned long long rank = Rank(logit, i);
    if (rank < bound && rank > best) best = rank;
  });
  return BlockReduce(best, 0ull, shared, Max());
}

__device__ float LogSumExp(const Row& row, float top, float* shared) {
  float sum = 0;
  row.ForEach([&](int, float logit) { sum += __expf(logit - top); });
  return top + __logf(BlockReduce(sum, 0.0f, shared, Sum()));
}

// The sum over threads before this one, and of all.
template <typename V>
__device__ inline V PrefixOf(V value, V* shared, V* all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  V sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const V other = __shfl_up_sync(~0u, sum, offset);
    if (lane >= offset) sum += other;
  }
  __syncthreads();
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  V before = 0, total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += shared[w];
    total += shared[w];
  }
  *all = total;
  return before + sum - value;
}

struct Found {
  int bin;
  Weight weight_before;
  unsigned count_before;
};

// The bin in which weights (or counts, if by_count) from the first one on go beyond `target`, which is
// less than all of them.
__device__ Found FindBin(const Weight* weights, const unsigned* counts, int bins, Weight weight_before,
                         unsigned count_before, Weight target, bool by_count) {
  __shared__ Found found;
  __shared__ Weight weight_sums[kWarps];
  __shared__ unsigned count_sums[kWarps];
  const int each = bins / kThreads, first = threadIdx.x * each;
  Weight weight = 0;
  unsigned count = 0;
  for (int b = first; b < first + each; ++b) {
    weight += weights[b];
    count += counts[b];
  }
  Weight all_weight;
  unsigned all_count;
  weight_before += PrefixOf(weight, weight_sums, &all_weight);
  count_before += PrefixOf(count, count_sums, &all_count);
  if (threadIdx.x == 0) found = {bins - 1, weight_before, count_before};
  __syncthreads();
  for (int b = first; b < first + each; ++b) {
    const Weight before = by_count ? count_before : weight_before, here = by_count ? counts[b] : weights[b];
    if (target >= before && target < before + here) found = {b, weight_before, count_before};
    weight_before += weights[b];
    count_before += counts[b];
  }
  __syncthreads();
  const Found result = found;
  __syncthreads();
  return result;
}

// *sum += weight. Shared memory adds 32 bits at once, but 64 only by exchanging them until no other thread came between. The halves come out
// right in whatever order threads add: each carry is seen by the one that makes it. The sum is whole only behind a barrier.
__device__ inline void AddTo(Weight* sum, Weight weight) {
  auto* halves = reinterpret_cast<unsigned*>(sum);
  const unsigned low = static_cast<unsigned>(weight), before = atomicAdd(&halves[0], low);
  const unsigned high = static_cast<unsigned>(weight >> 32) + (before + low < low ? 1 : 0);
  if (high > 0) atomicAdd(&halves[1], high);
}

class Drawer {
 public:
  __device__ Drawer(const Row& row, float top, float temperature, Bins* bins)
      : row_(row), top_(top), scale_(kBinsPerUnit / temperature), bins_(bins) {
    for (int b = threadIdx.x; b < kCoarse; b += kThreads) bins_->coarse_weight[b] = bins_->coarse_count[b] = 0;
    __syncthreads();
    row_.ForEach([&](int, float logit) {
      const float distance = Distance(logit);
      const int bin = CoarseOf(distance);
      atomicAdd(&bins_->coarse_count[bin], 1u);
      const Weight weight = WeightOf(distance);
      if (weight > 0) AddTo(&bins_->coarse_weight[bin], weight);
    });
    __syncthreads();
  }

  __device__ Weight All(Weight* shared) const {
    Weight sum = 0;
    for (int b = threadIdx.x; b < kCoarse; b += kThreads) sum += bins_->coarse_weight[b];
    return BlockReduce(sum, Weight{0}, shared, Sum());
  }

  // What all tokens weigh that are at least `share` as likely as the likeliest.
  __device__ Weight AtLeast(float share, Weight* shared) const {
    const Weight least = static_cast<Weight>(share * kOne);
    Weight sum = 0;
    row_.ForEach([&](int, float logit) {
      const Weight weight = WeightOf(Distance(logit));
      if (weight >= least) sum += weight;
    });
    return BlockReduce(sum, Weight{0}, shared, Sum());
  }

  // Where the weights (or counts) of the tokens, in their order, go beyond `target`.
  __device__ Place Find(Weight target, bool by_count) {
    const Found coarse = FindBin(bins_->coarse_weight, bins_->coarse_count, kCoarse, 0, 0, target, by_count);
    for (int b = threadIdx.x; b < kFine; b += kThreads) bins_->fine_weight[b] = bins_->fine_count[b] = 0;
    __syncthreads();
    row_.ForEach([&](int, float logit) {
      const float distance = Distance(logit);
      if (CoarseOf(distance) != coarse.bin) return;
      const int bin = FineOf(distance, coarse.bin);
      atomicAdd(&bins_->fine_count[bin], 1u);
      const Weight weight = WeightOf(distance);
      if (weight > 0) AddTo(&bins_->fine_weight[bin], weight);
    });
    __syncthreads();
    const Found fine = FindBin(bins_->fine_weight, bins_->fine_count, kFine, coarse.weight_before, coarse.count_before,
                               target, by_count);
    const unsigned count = bins_->fine_count[fine.bin];
    Place place{coarse.bin, fine.bin, 0, count > 0 ? bins_->fine_weight[fine.bin] / count : 0, fine.weight_before};
    const Weight inside = target - (by_count ? fine.count_before : fine.weight_before);
    if (by_count) {
      place.index = static_cast<unsigned>(inside);
    } else if (place.each > 0) {
      place.index = min(static_cast<unsigned>(inside / place.each), count - 1);
    }
    __syncthreads();
    return place;
  }

  // What all tokens weigh up to the place, its own included.
  static __device__ Weight Through(const Place& place) { return place.before + (place.index + 1) * place.each; }

  // The token at the place.
  __device__ int TokenAt(const Place& place) const {
    __shared__ unsigned counts[kWarps];
    __shared__ int token;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int each = (row_.vocabulary + kThreads - 1) / kThreads * 32, first = warp * each;
    const int last = min(first + each, row_.vocabulary);
    auto is_inside = [&](int i) {
      if (i >= last) return false;
      const float distance = Distance(row_.At(i));
      return CoarseOf(distance) == place.coarse && FineOf(distance, place.coarse) == place.fine;
    };
    if (threadIdx.x == 0) token = 0;
    unsigned count = 0;
    for (int i = first; i < last; i += 32) count += __popc(__ballot_sync(~0u, is_inside(i + lane)));
    if (lane == 0) counts[warp] = count;
    __syncthreads();
    unsigned before = 0;
    for (int w = 0; w < warp; ++w) before += counts[w];
    if (place.index >= before && place.index < before + count) {
      for (int i = first; i < last; i += 32) {
        const bool inside = is_inside(i + lane);
        const unsigned ballot = __ballot_sync(~0u, inside);
        const unsigned mine = before + __popc(ballot & ((1u << lane) - 1));
        if (inside && mine == place.index) token = i + lane;
        before += __popc(ballot);
      }
    }
    __syncthreads();
    return token;
  }

 private:
  // In coarse bins below the likeliest.
  // Rounded alike wherever it is asked: a token must not change its bin.
  __device__ float Distance(float logit) const { return __fmul_rn(__fsub_rn(top_, logit), scale_); }
  static __device__ int CoarseOf(float distance) { return static_cast<int>(fminf(distance, kCoarse - 1)); }
  static __device__ int FineOf(float distance, int coarse) {
    return static_cast<int>(fminf(__fmul_rn(__fsub_rn(distance, static_cast<float>(coarse)), kFine), kFine - 1));
  }
  static __device__ Weight WeightOf(float distance) {
    // What is no number is never drawn.
    return distance >= 0 ? static_cast<Weight>(expf(distance * (-1 / kBinsPerUnit)) * kOne) : 0;
  }

  const Row row_;
  const float top_, scale_;
  Bins* const bins_;
};

// Of all tokens those that are left by top-k, then top-p, then min-p are a beginning of the order: what
// it weighs is enough to draw from it.
__device__ int Draw(const Row& row, const ChosenRow& chosen, float top, Bins* bins, Weight* shared) {
  Drawer drawer(row, top, chosen.temperature, bins);
  Weight weight = drawer.All(shared);
  if (chosen.top_k > 0 && chosen.top_k < row.vocabulary) {
    weight = min(weight, Drawer::Through(drawer.Find(chosen.top_k - 1, /*by_count=*/true)));
  }
  if (chosen.top_p < 1) {
    const Weight least = static_cast<Weight>(ceil(static_cast<double>(chosen.top_p) * static_cast<double>(weight)));
    weight = min(weight, Drawer::Through(drawer.Find(least > 0 ? least - 1 : 0, /*by_count=*/false)));
  }
  if (chosen.min_p > 0) weight = min(weight, drawer.AtLeast(chosen.min_p, shared));
  const double uniform = __hiloint2double(chosen.uniform_high, chosen.uniform_low);
  const Weight target = min(static_cast<Weight>(uniform * static_cast<double>(weight)), weight - 1);
  return drawer.TokenAt(drawer.Find(target, /*by_count=*/false));
}

__global__ __launch_bounds__(kThreads) void Choose(const ChoiceCall call) {
  __shared__ Bins bins;
  __shared__ unsigned long long shared[33];
  __shared__ float shared_float[33];
  const ChosenRow& chosen = call.rows[blockIdx.x];
  const int vocabulary = static_cast<int>(call.vocabulary);
  const int64_t at = chosen.row - call.first_row;
  const int64_t logits_row = chosen.logits_row >= 0 ? chosen.logits_row : at;
  const Row raw{static_cast<const Bf16*>(call.logits_NV) + logits_row * vocabulary, nullptr, vocabulary, {}};
  Row row = raw;
  if (chosen.mask_row >= 0) row.mask = {call.masks + chosen.mask_row * call.mask_words, call.mask_words};
  if (chosen.scratch_row >= 0) {
    float* to = call.scratch_CV + chosen.scratch_row * static_cast<int64_t>(vocabulary);
    const int pending = chosen.pending >= 0 ? call.sampled_before[chosen.pending] : -1;
    ApplyChanges(row, chosen, call.changes + chosen.first_change, pending, to);
    row.changed = to;
  }
  const unsigned long long best = Best(row, ~0ull, shared);
  const int token = chosen.temperature > 0 ? Draw(row, chosen, ValueOfRank(best), &bins, shared) : TokenOfRank(best);
  if (threadIdx.x == 0) call.sampled[at] = token;
  if (chosen.alternatives < 0) return;
  float* out = call.logprobs + static_cast<int64_t>(chosen.logprobs_row) * kLogprobsWidth;
  const unsigned long long likeliest = Best(raw, ~0ull, shared);
  const float log_sum = LogSumExp(raw, ValueOfRank(likeliest), shared_float);
  if (threadIdx.x == 0) out[0] = raw.At(token) - log_sum;
  unsigned long long bound = ~0ull;
  for (int i = 0; i < min(chosen.alternatives, kMostAlternatives); ++i) {
    bound = Best(raw, bound, shared);
    if (threadIdx.x != 0) continue;
    out[1 + 2 * i] = __int_as_float(TokenOfRank(bound));
    out[2 + 2 * i] = ValueOfRank(bound) - log_sum;
  }
}

}  // namespace

void ChooseRows(const ChoiceCall& call, int64_t count, Stream stream) {
  if (count == 0) return;
  Choose<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(call);
  CheckLaunch();
}

}  // namespace attune::cuda
