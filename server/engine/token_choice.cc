#include "server/engine/token_choice.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

#include "server/engine/sampler.h"
#include "server/model/base_model.h"

namespace attune {
namespace {

// Colder is the same as greedy, and a float divides by this without overflow.
constexpr double kColdest = 1e-6;

bool HasPenalties(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

std::vector<cuda::LogitChange> ChangesFor(const Task& task) {
  const int32_t vocab = static_cast<int32_t>(task.model->base->config.vocab);
  std::unordered_map<int32_t, cuda::LogitChange> changes;
  auto of = [&](int32_t token) -> cuda::LogitChange* {
    if (token < 0 || token >= vocab) return nullptr;
    return &changes.try_emplace(token, cuda::LogitChange{token, 0, 0, 0, 0}).first->second;
  };
  if (HasPenalties(task.sampling)) {
    const std::vector<int32_t>& tokens = task.sequence.tokens;
    for (int64_t i = 0; i < task.known(); ++i) {
      cuda::LogitChange* change = of(tokens[i]);
      if (!change) continue;
      change->is_seen = 1;
      change->count += i >= task.prompt_tokens;
    }
  }
  for (const auto& [token, bias] : task.sampling.logit_bias) {
    if (cuda::LogitChange* change = of(token)) change->bias += bias;
  }
  if (const std::vector<int32_t>* banned = task.banned()) {
    for (int32_t token : *banned) {
      if (cuda::LogitChange* change = of(token)) change->is_banned = 1;
    }
  }
  std::vector<cuda::LogitChange> out;
  out.reserve(changes.size());
  for (const auto& [token, change] : changes) out.push_back(change);
  return out;
}

}  // namespace

bool ChoosesOnDevice(const Task& task) {
  return task.kind == Task::Kind::kAnswer && task.siblings == 0 && !task.draft;
}

std::shared_ptr<const TokenChoice> MakeTokenChoice(const Task& task) {
  const SamplingParams& p = task.sampling;
  const GenerateParams& params = task.generation->params;
  const bool changes = HasPenalties(p) || !p.logit_bias.empty() || task.banned();
  const bool wants_logprobs = params.logprobs || params.top_logprobs > 0;
  if (p.temperature <= 0 && !changes && !wants_logprobs && !task.grammar) return nullptr;
  auto choice = std::make_shared<TokenChoice>();
  if (changes) choice->changes = ChangesFor(task);
  cuda::ChosenRow& row = choice->row;
  row = {};
  row.temperature = p.temperature > 0 ? static_cast<float>(std::max(p.temperature, kColdest)) : 0;
  row.top_p = static_cast<float>(p.top_p);
  row.min_p = static_cast<float>(p.min_p);
  row.top_k = p.top_k;
  const uint64_t uniform = std::bit_cast<uint64_t>(UniformDraw(p.seed, task.generated() + task.sequence.in_flight));
  row.uniform_low = static_cast<int32_t>(uniform);
  row.uniform_high = static_cast<int32_t>(uniform >> 32);
  row.repetition_penalty = static_cast<float>(p.repetition_penalty);
  row.frequency_penalty = static_cast<float>(p.frequency_penalty);
  row.presence_penalty = static_cast<float>(p.presence_penalty);
  row.pending = row.scratch_row = row.logprobs_row = row.mask_row = row.logits_row = -1;
  row.alternatives = wants_logprobs ? std::min(params.top_logprobs, cuda::kMostAlternatives) : -1;
  return choice;
}

}  // namespace attune
