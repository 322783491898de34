#ifndef ATTUNE_SERVER_ENGINE_SAMPLER_H_
#define ATTUNE_SERVER_ENGINE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "server/engine/engine.h"

namespace attune {

// What a token is chosen from.
struct SamplerInput {
  const float* logits = nullptr;  // one per token of the vocabulary
  int64_t vocab = 0;
  const int32_t* seen = nullptr;  // prompt and answer so far (virtual tokens are negative)
  int64_t seen_count = 0;
  int64_t answer_begin = 0;  // where the answer starts in `seen`
  const std::vector<int32_t>* banned = nullptr;  // tokens that are not to be chosen; some other must be left
  const std::vector<uint32_t>* allowed = nullptr;  // if set, only tokens whose bit is: bit i of word i / 32
};

// Chooses the next token: penalties, biases and bans, then temperature, then top-k, top-p and min-p in
// that order, as transformers and vLLM do. Draws from `params.seed` and the answer's
// length alone, so that from the same logits the same request gives the same text whatever runs beside it.
int32_t SampleToken(const SamplerInput& input, const SamplingParams& params);

// What the token at a place of the answer is drawn by: in [0, 1), well mixed.
double UniformDraw(uint64_t seed, uint64_t position);

// log softmax of one logit.
float LogProbability(const float* logits, int64_t vocab, int32_t token);
// The likeliest token; the lowest id among equals.
int32_t Argmax(const float* logits, int64_t vocab);
// The `count` likeliest tokens with their log-probabilities, likeliest first.
std::vector<std::pair<int32_t, float>> TopLogprobs(const float* logits, int64_t vocab, int count);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_SAMPLER_H_
