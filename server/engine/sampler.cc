#include "server/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "common/stable_hash.h"
#include "server/model/kernels/logit_rows.h"

namespace attune {
namespace {

// Steele et al. 2014: a well-mixed 64-bit function of its argument.
uint64_t SplitMix(uint64_t x) { return MixBits(x + 0x9E3779B97F4A7C15ULL); }

bool ChangesLogits(const SamplerInput& input, const SamplingParams& p) {
  if ((input.banned && !input.banned->empty()) || input.allowed || !p.logit_bias.empty()) return true;
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

void ApplyBansAndBiases(const SamplerInput& input, const SamplingParams& p, std::vector<float>* logits) {
  auto in_range = [&](int32_t token) { return token >= 0 && token < input.vocab; };
  for (const auto& [token, bias] : p.logit_bias) {
    if (in_range(token)) (*logits)[token] += bias;
  }
  constexpr float kNever = std::numeric_limits<float>::lowest();
  if (input.allowed) {
    // By words: mostly all of a word's tokens are allowed, or none.
    for (int64_t begin = 0; begin < input.vocab; begin += 32) {
      const size_t word = begin / 32;
      const uint32_t bits = word < input.allowed->size() ? (*input.allowed)[word] : 0;
      const int64_t count = std::min<int64_t>(32, input.vocab - begin);
      float* values = logits->data() + begin;
      if (bits == 0) std::fill_n(values, count, kNever);
      if (bits == 0 || bits == ~uint32_t{0}) continue;
      for (int64_t i = 0; i < count; ++i) values[i] = bits >> i & 1 ? values[i] : kNever;
    }
  }
  if (!input.banned) return;
  for (int32_t token : *input.banned) {
    if (in_range(token)) (*logits)[token] = kNever;
  }
}

void ApplyPenalties(const SamplerInput& input, const SamplingParams& p, std::vector<float>* logits) {
  if (p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0) return;
  std::unordered_map<int32_t, int> in_answer;
  std::unordered_map<int32_t, bool> seen;
  for (int64_t i = 0; i < input.seen_count; ++i) {
    const int32_t token = input.seen[i];
    if (token < 0 || token >= input.vocab) continue;
    seen[token] = true;
    if (i >= input.answer_begin) ++in_answer[token];
  }
  for (const auto& [token, unused] : seen) {
    float& logit = (*logits)[token];
    logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  }
  for (const auto& [token, count] : in_answer) {
    (*logits)[token] -= static_cast<float>(p.frequency_penalty * count + p.presence_penalty);
  }
}

struct Candidate {
  int32_t token;
  double weight;  // relative to the likeliest token's
};

double Weight(float logit, float top, double temperature) { return std::exp((logit - top) / temperature); }

// The `order`ed tokens with their weights, likeliest first.
std::vector<Candidate> Sorted(std::vector<int32_t> order, const float* logits, float top, double temperature) {
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  std::vector<Candidate> out;
  out.reserve(order.size());
  for (int32_t token : order) out.push_back({token, Weight(logits[token], top, temperature)});
  return out;
}

std::vector<int32_t> TopK(const float* logits, int64_t vocab, int64_t k) {
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::nth_element(order.begin(), order.begin() + k - 1, order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  order.resize(k);
  return order;
}

// Tokens no further below the likeliest than this.
std::vector<int32_t> Above(const float* logits, int64_t vocab, float least) {
  std::vector<int32_t> order;
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] >= least) order.push_back(static_cast<int32_t>(i));
  }
  return order;
}

double SumOf(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

// Of all candidates, whose weights add up to `sum`, the smallest set that reaches top_p, then
// those at least min_p as likely as the first.
void Filter(const SamplingParams& p, double sum, std::vector<Candidate>* candidates) {
  double reached = 0;
  size_t count = 0;
  while (count < candidates->size() && (count == 0 || reached < p.top_p * sum)) reached += (*candidates)[count++].weight;
  while (count > 1 && (*candidates)[count - 1].weight < p.min_p * (*candidates)[0].weight) --count;
  candidates->resize(count);
}

// The candidate at which the weights add up to more than `left`; -1 if there is none.
int32_t Walk(const std::vector<Candidate>& candidates, double left) {
  for (const Candidate& candidate : candidates) {
    left -= candidate.weight;
    if (left < 0) return candidate.token;
  }
  return -1;
}

int32_t Pick(const std::vector<Candidate>& candidates, double uniform) {
  const int32_t token = Walk(candidates, uniform * SumOf(candidates));
  return token >= 0 ? token : candidates.back().token;
}

// From the likeliest on, in order, without sorting the whole vocabulary: what is far below the
// likeliest is looked at only if what is above does not decide.
int32_t Sample(const float* logits, int64_t vocab, const SamplingParams& p, double uniform) {
  const float top = logits[Argmax(logits, vocab)];
  if (p.top_k > 0 && p.top_k < vocab) {
    std::vector<Candidate> candidates = Sorted(TopK(logits, vocab, p.top_k), logits, top, p.temperature);
    Filter(p, SumOf(candidates), &candidates);
    return Pick(candidates, uniform);
  }
  const double sum = SumOfExp(logits, vocab, top, static_cast<float>(1 / p.temperature));
  constexpr double kAll = std::numeric_limits<double>::infinity();
  for (double below : {8.0, 16.0, 32.0, kAll}) {
    const float least = below == kAll ? -std::numeric_limits<float>::infinity() : static_cast<float>(top - below * p.temperature);
    std::vector<Candidate> candidates = Sorted(Above(logits, vocab, least), logits, top, p.temperature);
    if (p.top_p >= 1 && p.min_p <= 0) {
      const int32_t token = Walk(candidates, uniform * sum);
      if (token >= 0) return token;
      if (below == kAll) return candidates.back().token;
      continue;
    }
    const bool is_complete = below == kAll || SumOf(candidates) >= p.top_p * sum || std::exp(-below) < p.min_p;
    if (!is_complete) continue;
    Filter(p, sum, &candidates);
    return Pick(candidates, uniform);
  }
  return static_cast<int32_t>(Argmax(logits, vocab));  // not reached
}

}  // namespace

double UniformDraw(uint64_t seed, uint64_t position) {
  return static_cast<double>(SplitMix(SplitMix(seed) + position) >> 11) * 0x1.0p-53;
}

int32_t Argmax(const float* logits, int64_t vocab) { return ArgmaxOf(logits, vocab); }

float LogProbability(const float* logits, int64_t vocab, int32_t token) {
  return static_cast<float>(logits[token] - SummariseLogits(logits, vocab).log_sum);
}

std::vector<std::pair<int32_t, float>> TopLogprobs(const float* logits, int64_t vocab, int count) {
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  count = static_cast<int>(std::min<int64_t>(count, vocab));
  auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), likelier);
  const float first = count > 0 ? LogProbability(logits, vocab, order[0]) : 0;
  std::vector<std::pair<int32_t, float>> out;
  for (int i = 0; i < count; ++i) out.emplace_back(order[i], first + (logits[order[i]] - logits[order[0]]));
  return out;
}

int32_t SampleToken(const SamplerInput& input, const SamplingParams& params) {
  const float* logits = input.logits;
  std::vector<float> changed;
  if (ChangesLogits(input, params)) {
    changed.assign(logits, logits + input.vocab);
    ApplyPenalties(input, params, &changed);
    ApplyBansAndBiases(input, params, &changed);
    logits = changed.data();
  }
  if (params.temperature <= 0) return Argmax(logits, input.vocab);
  return Sample(logits, input.vocab, params, UniformDraw(params.seed, input.seen_count - input.answer_begin));
}

}  // namespace attune
