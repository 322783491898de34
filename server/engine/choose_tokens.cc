#include "server/engine/choose_tokens.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "server/engine/beam_group.h"
#include "server/engine/sampler.h"

namespace attune {
namespace {

int32_t Choose(const Task& task, const float* logits, int64_t vocab, int64_t ahead, const SamplingParams& sampling,
               GrammarState* grammar) {
  const std::vector<int32_t>& tokens = task.sequence.tokens;
  return SampleToken({logits, vocab, tokens.data(), task.known() + ahead, task.prompt_tokens, task.banned(ahead),
                      grammar ? &grammar->Allowed() : nullptr},
                     sampling);
}

TokenInfo InfoOf(const Task& task, const float* logits, int64_t vocab, int32_t token) {
  const GenerateParams& params = task.generation->params;
  TokenInfo info{token, 0, {}};
  if (!params.logprobs && params.top_logprobs == 0) return info;
  info.logprob = LogProbability(logits, vocab, token);
  info.alternatives = TopLogprobs(logits, vocab, params.top_logprobs);
  return info;
}

void ChooseForAnswer(Task* task, Lane::Output* output) {
  if (task->mask_ready) task->mask_ready->WaitForNotification();
  task->mask_ready = nullptr;
  GrammarState* grammar = task->grammar.get();
  for (int64_t row = 0; row < output->rows; ++row) {
    const float* logits = output->logits + row * output->vocab;
    const int32_t token = Choose(*task, logits, output->vocab, row, task->sampling, grammar);
    if (grammar && !grammar->Accept(token)) return;
    output->chosen.push_back(InfoOf(*task, logits, output->vocab, token));
    const bool is_right = row < task->sequence.drafted && task->sequence.tokens[task->known() + row] == token;
    if (!is_right || task->IsEnd(token)) break;
  }
  output->is_over = grammar && grammar->IsOver();
}

void Read(Lane::Output* output) {
  Task* task = output->task;
  switch (task->kind) {
    case Task::Kind::kAnswer: return ChooseForAnswer(task, output);
    case Task::Kind::kDraft:
      if (output->ends_input && task->drafts_for->draft->is_asked) {
        output->chosen.push_back({Choose(*task, output->logits, output->vocab, 0, task->sampling, nullptr), 0, {}});
      }
      return;
    case Task::Kind::kBeam:
      if (output->ends_input) output->likeliest = task->beams->Likeliest(*task, output->logits, output->vocab);
      return;
    case Task::Kind::kScorePrompt:
    case Task::Kind::kScoreContinuation:
      for (int64_t row = 0; row < output->rows; ++row) {
        output->summaries.push_back(SummariseLogits(output->logits + row * output->vocab, output->vocab));
      }
  }
}

}  // namespace

void ChooseTokens(std::vector<Lane::Output>* outputs) {
  // Where the device has chosen, threads would be woken at every step for nothing.
  std::vector<Lane::Output*> unread;
  for (Lane::Output& output : *outputs) {
    if (output.logits && output.rows > 0) {
      unread.push_back(&output);
    } else if (output.rows > 0 && output.scored.empty() && !output.is_refused) {
      output.chosen.push_back(std::move(output.device_choice));
    }
  }
  if (unread.empty()) return;
  at::parallel_for(0, static_cast<int64_t>(unread.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) Read(unread[i]);
  });
}

TokenInfo ChooseFirstToken(const Task& task, const Lane::Output& output, const SamplingParams& sampling,
                           GrammarState* grammar) {
  return InfoOf(task, output.logits, output.vocab, Choose(task, output.logits, output.vocab, 0, sampling, grammar));
}

}  // namespace attune
