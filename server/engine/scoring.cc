#include "server/engine/scoring.h"

#include <utility>

namespace attune {
namespace {

void AddToken(int32_t token, float logprob, bool greedy, ScoredContinuation* scored) {
  TokenInfo info;
  info.id = token;
  info.logprob = logprob;
  scored->logprob += info.logprob;
  scored->is_greedy = scored->is_greedy && greedy;
  scored->greedy.push_back(greedy);
  scored->tokens.push_back(std::move(info));
}

// Scores the token that a row predicts.
void ScoreToken(const float* logits, const LogitRow& row, int32_t token, ScoredContinuation* scored) {
  AddToken(token, static_cast<float>(logits[token] - row.log_sum), row.argmax == token, scored);
}

}  // namespace

std::unique_ptr<Task> Scoring::MakeTask(ScoreParams params, std::vector<int32_t> tokens,
                                        std::function<void(absl::StatusOr<ScoreResult>)> done, absl::Time now) {
  auto state = std::make_shared<ScoreState>();
  state->arrival = now;
  state->open = static_cast<int>(params.continuations.size());
  state->result.continuations.resize(params.continuations.size());
  state->done = std::move(done);
  auto task = std::make_unique<Task>();
  task->kind = Task::Kind::kScorePrompt;
  task->model = params.model;
  task->sequence.tokens = std::move(tokens);
  task->sequence.model = params.model->uid;
  task->sequence.priority = params.priority;
  task->sequence.tenant = std::hash<std::string>()(params.tenant);
  task->prompt_tokens = static_cast<int64_t>(task->sequence.tokens.size());
  task->arrival = now;
  task->deadline = params.deadline;
  state->params = std::move(params);
  task->score = std::move(state);
  return task;
}

std::unique_ptr<Task> Scoring::Continue(const Task& prompt, size_t index) {
  const std::vector<int32_t>& continuation = prompt.score->params.continuations[index];
  std::unique_ptr<Task> child = ForkOf(prompt);
  child->kind = Task::Kind::kScoreContinuation;
  child->sequence.tokens.insert(child->sequence.tokens.end(), continuation.begin(), continuation.end() - 1);
  child->sequence.most_reused = prompt.prompt_tokens - 1;  // what follows is to be scored
  child->index = static_cast<int>(index);
  child->got_first_token = true;
  return child;
}

void Scoring::HandlePrompt(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  if (!output.ends_input) return;
  std::shared_ptr<ScoreState> score = task->score;
  const absl::Time now = clock_->Now();
  const double first = absl::ToDoubleSeconds(now - score->arrival);
  score->result.timings.first_token_seconds = first;
  observer_->OnFirstToken(*task->model, absl::ToDoubleSeconds(task->started - task->arrival),
                          absl::ToDoubleSeconds(now - task->started), first);
  for (size_t i = 0; i < score->params.continuations.size(); ++i) {
    const std::vector<int32_t>& continuation = score->params.continuations[i];
    ScoreToken(output.logits, output.summaries[0], continuation[0], &score->result.continuations[i]);
    if (continuation.size() == 1) {
      --score->open;
    } else {
      lane->AddFork(*task, Continue(*task, i));
    }
  }
  if (score->open == 0) End(score.get(), *task);
  lane->Remove(task);
}

void Scoring::HandleContinuation(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  std::shared_ptr<ScoreState> score = task->score;
  const std::vector<int32_t>& continuation = score->params.continuations[task->index];
  for (int64_t i = 0; i < output.rows; ++i) {
    // The row after position p predicts the token at p + 1.
    const int64_t next = output.first_position + i + 1 - task->prompt_tokens;
    ScoredContinuation* scored = &score->result.continuations[task->index];
    if (!output.scored.empty()) {
      AddToken(continuation[next], output.scored[i].first, output.scored[i].second, scored);
    } else {
      ScoreToken(output.logits + i * output.vocab, output.summaries[i], continuation[next], scored);
    }
  }
  if (!output.ends_input) return;
  if (--score->open == 0) End(score.get(), *task);
  lane->Remove(task);
}

void Scoring::End(ScoreState* score, const Task& task) {
  if (score->ended) return;
  score->ended = true;
  score->result.timings.total_seconds = absl::ToDoubleSeconds(clock_->Now() - score->arrival);
  int tokens = 0;
  for (const auto& continuation : score->params.continuations) tokens += static_cast<int>(continuation.size());
  observer_->OnFinished(*task.model, FinishReason::kStop, static_cast<int>(task.prompt_tokens), tokens,
                        score->result.timings);
  score->done(std::move(score->result));
}

}  // namespace attune
