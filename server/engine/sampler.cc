#include "server/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

namespace attune {
namespace {

// Steele et al. 2014: a well-mixed 64-bit function of its argument.
uint64_t SplitMix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// In [0, 1).
double Uniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(SplitMix(SplitMix(seed) + position) >> 11) * 0x1.0p-53;
}

bool HasPenalties(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

void ApplyPenalties(const SamplerInput& input, const SamplingParams& p, std::vector<float>* logits) {
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

// Probabilities of the tokens that the filters leave, likeliest first.
std::vector<std::pair<int32_t, double>> Candidates(const float* logits, int64_t vocab, const SamplingParams& p) {
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  int64_t keep = p.top_k > 0 ? std::min<int64_t>(p.top_k, vocab) : vocab;
  if (keep < vocab) {
    std::nth_element(order.begin(), order.begin() + keep - 1, order.end(), likelier);
    order.resize(keep);
  }
  std::sort(order.begin(), order.end(), likelier);
  std::vector<std::pair<int32_t, double>> out;
  out.reserve(order.size());
  double sum = 0;
  for (int32_t token : order) {
    const double weight = std::exp((logits[token] - logits[order[0]]) / p.temperature);
    out.emplace_back(token, weight);
    sum += weight;
  }
  // Smallest set that reaches top_p, then those at least min_p as likely as the first.
  double reached = 0;
  size_t count = 0;
  while (count < out.size() && (count == 0 || reached < p.top_p * sum)) reached += out[count++].second;
  while (count > 1 && out[count - 1].second < p.min_p * out[0].second) --count;
  out.resize(count);
  return out;
}

}  // namespace

int32_t Argmax(const float* logits, int64_t vocab) {
  return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
}

float LogProbability(const float* logits, int64_t vocab, int32_t token) {
  const float top = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - top);
  return static_cast<float>(logits[token] - top - std::log(sum));
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
  if (HasPenalties(params)) {
    changed.assign(logits, logits + input.vocab);
    ApplyPenalties(input, params, &changed);
    logits = changed.data();
  }
  if (params.temperature <= 0) return Argmax(logits, input.vocab);
  const auto candidates = Candidates(logits, input.vocab, params);
  double sum = 0;
  for (const auto& [token, weight] : candidates) sum += weight;
  double left = Uniform(params.seed, input.seen_count - input.answer_begin) * sum;
  for (const auto& [token, weight] : candidates) {
    left -= weight;
    if (left < 0) return token;
  }
  return candidates.back().first;
}

}  // namespace attune
