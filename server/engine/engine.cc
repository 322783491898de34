#include "server/engine/engine.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/error.h"
#include "server/engine/lane.h"
#include "server/engine/request.h"
#include "server/engine/sampler.h"

namespace attune {
namespace {

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

std::vector<int32_t> WithVirtualTokens(const ServedModel& model, const std::vector<int32_t>& prompt) {
  std::vector<int32_t> tokens;
  const int64_t count = model.adapter ? model.adapter->virtual_tokens() : 0;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(-1 - i));
  tokens.insert(tokens.end(), prompt.begin(), prompt.end());
  return tokens;
}

class GenerationHandle final : public Generation {
 public:
  explicit GenerationHandle(std::shared_ptr<GenerationState> state) : state_(std::move(state)) {}
  ~GenerationHandle() override { Cancel(); }
  bool Next(GenerationUpdate* update) override { return state_->Next(update); }
  // The engine looks before each step who has been stopped.
  void StopAnswer(int index) override { state_->StopAnswer(index); }
  void Cancel() override { state_->Cancel(); }
  absl::Status status() const override { return state_->status(); }
  RequestTimings timings() const override { return state_->timings(); }

 private:
  const std::shared_ptr<GenerationState> state_;
};

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, Arbiter* arbiter, const Clock* clock, EngineObserver* observer)
      : options_(options), arbiter_(arbiter), clock_(clock), observer_(observer ? observer : &nobody_) {
    thread_ = std::thread([this] { Loop(); });
  }
  ~EngineImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::StatusOr<std::unique_ptr<Generation>> Generate(GenerateParams params) override;
  void ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) override;
  EngineStats stats() const override;
  void Shutdown(absl::Duration grace) override;

 private:
  struct Inbox {
    absl::Mutex mutex;
    std::vector<std::unique_ptr<Task>> tasks ABSL_GUARDED_BY(mutex);
    bool draining ABSL_GUARDED_BY(mutex) = false;  // no new requests
    bool ending ABSL_GUARDED_BY(mutex) = false;    // cancel what runs and end the thread
    bool idle ABSL_GUARDED_BY(mutex) = true;       // no task anywhere
    int64_t waiting ABSL_GUARDED_BY(mutex) = 0;    // tasks not let in yet, of the last step
  };

  absl::Status CheckSize(const ServedModel& model, int64_t tokens) const;
  absl::Status Submit(std::vector<std::unique_ptr<Task>> tasks);

  // The engine's thread.
  void Loop();
  bool TakeInbox();
  void Admit(std::unique_ptr<Task> task);
  absl::StatusOr<Lane*> LaneFor(const BaseModel& base);
  void DropAbandoned();
  void StepLanes();
  void StepLane(Lane* lane, bool may_run_ahead);
  // Reads the logits that came to the host, on all threads: chooses answers' tokens, and sums
  // up rows that are scored.
  static void ReadLogits(std::vector<Lane::Output>* outputs);
  void Handle(Lane* lane, const Lane::Output& output);
  void HandleAnswer(Lane* lane, const Lane::Output& output);
  void HandlePrompt(Lane* lane, const Lane::Output& output);
  void HandleContinuation(Lane* lane, const Lane::Output& output);
  void NoteFirstToken(Task* task);
  void Finish(Lane* lane, Task* task, FinishReason reason);
  void Fail(Lane* lane, Task* task, const absl::Status& status);
  void FailDetached(Task* task, const absl::Status& status);
  void EndScore(ScoreState* score, const Task& task);
  void PublishStats();

  EngineObserver nobody_;
  const EngineOptions options_;
  Arbiter* const arbiter_;
  const Clock* const clock_;
  EngineObserver* const observer_;
  const std::unique_ptr<Inbox> inbox_ = std::make_unique<Inbox>();
  std::vector<std::unique_ptr<Lane>> lanes_;  // the engine's thread only
  std::atomic<int> running_{0}, waiting_{0};
  std::atomic<int64_t> pages_used_{0}, pages_total_{0};
  absl::Mutex join_mutex_;
  std::thread thread_;
};

absl::Status EngineImpl::CheckSize(const ServedModel& model, int64_t tokens) const {
  const int64_t most = std::min(model.base->config.context, options_.kv_tokens / Lane::kPageTokens * Lane::kPageTokens);
  if (tokens <= most) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG",
                   absl::StrCat("prompt and answer take ", tokens, " tokens; there is room for ", most));
}

absl::Status EngineImpl::Submit(std::vector<std::unique_ptr<Task>> tasks) {
  absl::MutexLock lock(&inbox_->mutex);
  if (inbox_->draining) {
    return MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "The server is shutting down.");
  }
  if (inbox_->waiting + static_cast<int64_t>(inbox_->tasks.size()) >= options_.max_waiting) {
    return MakeError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "Too many requests wait; try again later.");
  }
  for (auto& task : tasks) inbox_->tasks.push_back(std::move(task));
  inbox_->idle = false;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Generation>> EngineImpl::Generate(GenerateParams params) {
  const absl::Time now = clock_->Now();
  std::vector<int32_t> tokens = WithVirtualTokens(*params.model, params.prompt);
  ATTUNE_RETURN_IF_ERROR(CheckSize(*params.model, static_cast<int64_t>(tokens.size()) + params.max_tokens));
  auto state = std::make_shared<GenerationState>(std::move(params), now);
  std::vector<std::unique_ptr<Task>> tasks;
  for (int i = 0; i < state->params.n; ++i) {
    auto task = std::make_unique<Task>();
    task->model = state->params.model;
    task->sequence.tokens = tokens;
    task->sequence.model = task->model->uid;
    task->prompt_tokens = tokens.size();
    task->sequence.most_tokens =
        std::min(task->prompt_tokens + state->params.max_tokens, state->params.model->base->config.context);
    task->generation = state;
    if (!state->params.ignore_eos) task->ends = state->params.model->base->end_ids;
    task->ends.insert(task->ends.end(), state->params.stop_tokens.begin(), state->params.stop_tokens.end());
    task->index = i;
    task->sampling = state->params.sampling;
    task->sampling.seed += i;
    task->arrival = now;
    task->deadline = state->params.deadline;
    tasks.push_back(std::move(task));
  }
  ATTUNE_RETURN_IF_ERROR(Submit(std::move(tasks)));
  return std::make_unique<GenerationHandle>(std::move(state));
}

void EngineImpl::ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) {
  auto state = std::make_shared<ScoreState>();
  state->arrival = clock_->Now();
  state->open = static_cast<int>(params.continuations.size());
  state->result.continuations.resize(params.continuations.size());
  size_t longest = 0;
  for (const auto& continuation : params.continuations) longest = std::max(longest, continuation.size());
  auto task = std::make_unique<Task>();
  task->kind = Task::Kind::kScorePrompt;
  task->model = params.model;
  task->sequence.tokens = WithVirtualTokens(*params.model, params.prompt);
  task->sequence.model = params.model->uid;
  task->prompt_tokens = task->sequence.tokens.size();
  task->arrival = state->arrival;
  task->deadline = params.deadline;
  absl::Status status = CheckSize(*params.model, task->prompt_tokens + static_cast<int64_t>(longest));
  state->params = std::move(params);
  state->done = done;
  task->score = std::move(state);
  if (status.ok()) {
    std::vector<std::unique_ptr<Task>> tasks;
    tasks.push_back(std::move(task));
    status = Submit(std::move(tasks));
  }
  if (!status.ok()) done(status);
}

EngineStats EngineImpl::stats() const { return {running_, waiting_, pages_used_, pages_total_}; }

void EngineImpl::Shutdown(absl::Duration grace) {
  {
    absl::MutexLock lock(&inbox_->mutex);
    inbox_->draining = true;
    inbox_->mutex.AwaitWithTimeout(absl::Condition(&inbox_->idle), grace);
    inbox_->ending = true;
  }
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void EngineImpl::Loop() {
  while (TakeInbox()) {
    DropAbandoned();
    StepLanes();
    PublishStats();
  }
  const absl::Status ended = MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "The server is shutting down.");
  for (auto& lane : lanes_) {
    for (Task* task : lane->tasks()) {
      if (task->kind == Task::Kind::kAnswer) {
        Finish(lane.get(), task, FinishReason::kCancelled);
      } else {
        FailDetached(task, ended);
      }
    }
  }
}

// Waits until there is something to do; false when the engine ends.
bool EngineImpl::TakeInbox() {
  bool busy = false;
  for (const auto& lane : lanes_) busy = busy || !lane->empty();
  std::vector<std::unique_ptr<Task>> tasks;
  {
    absl::MutexLock lock(&inbox_->mutex);
    inbox_->idle = !busy && inbox_->tasks.empty();
    if (!busy) {
      inbox_->mutex.Await(absl::Condition(
          +[](Inbox* inbox) ABSL_NO_THREAD_SAFETY_ANALYSIS { return !inbox->tasks.empty() || inbox->ending; },
          inbox_.get()));
    }
    tasks.swap(inbox_->tasks);
    if (inbox_->ending) {
      for (auto& task : tasks) FailDetached(task.get(), absl::UnavailableError("The server is shutting down."));
      inbox_->idle = true;
      return false;
    }
  }
  for (auto& task : tasks) Admit(std::move(task));
  return true;
}

absl::StatusOr<Lane*> EngineImpl::LaneFor(const BaseModel& base) {
  for (auto& lane : lanes_) {
    if (lane->Fits(base)) return lane.get();
  }
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Lane> lane, Lane::Make(base, options_, arbiter_));
  lanes_.push_back(std::move(lane));
  return lanes_.back().get();
}

void EngineImpl::Admit(std::unique_ptr<Task> task) {
  absl::StatusOr<Lane*> lane = LaneFor(*task->model->base);
  if (lane.ok()) {
    (*lane)->Add(std::move(task));
  } else {
    FailDetached(task.get(), lane.status());
  }
}

void EngineImpl::DropAbandoned() {
  const absl::Time now = clock_->Now();
  for (auto& lane : lanes_) {
    for (Task* task : lane->tasks()) {
      if (task->IsAbandoned()) {
        if (task->kind == Task::Kind::kAnswer) {
          observer_->OnFinished(*task->model, FinishReason::kCancelled, static_cast<int>(task->prompt_tokens),
                                static_cast<int>(task->generated()), task->generation->timings());
        }
        lane->Remove(task);
      } else if (now >= task->deadline && task->sequence.computed == 0 && !task->got_first_token) {
        Fail(lane.get(), task, MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                                         "The deadline passed before the request's turn came."));
      }
    }
  }
}

void EngineImpl::ReadLogits(std::vector<Lane::Output>* outputs) {
  // Where the device has chosen, threads would be woken at every step for nothing.
  std::vector<Lane::Output*> unread;
  for (Lane::Output& output : *outputs) {
    if (output.logits) unread.push_back(&output);
  }
  if (unread.empty()) return;
  at::parallel_for(0, static_cast<int64_t>(unread.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Lane::Output& output = *unread[i];
      const Task& task = *output.task;
      if (task.kind != Task::Kind::kAnswer) {
        for (int64_t row = 0; row < output.rows; ++row) {
          output.summaries.push_back(SummariseLogits(output.logits + row * output.vocab, output.vocab));
        }
        continue;
      }
      if (!output.ends_input) continue;
      const std::vector<int32_t>& tokens = task.sequence.tokens;
      output.chosen = SampleToken({output.logits, output.vocab, tokens.data(), static_cast<int64_t>(tokens.size()),
                                   task.prompt_tokens, task.banned()},
                                  task.sampling);
    }
  });
}

// The turn on the device is one lane's at a time: who has kept it goes first, and gives it up
// if there are others.
void EngineImpl::StepLanes() {
  std::vector<Lane*> active;
  for (auto& lane : lanes_) {
    if (!lane->empty()) active.push_back(lane.get());
  }
  std::stable_partition(active.begin(), active.end(), [](const Lane* lane) { return lane->has_turn(); });
  for (Lane* lane : active) StepLane(lane, /*may_run_ahead=*/active.size() == 1);
}

void EngineImpl::StepLane(Lane* lane, bool may_run_ahead) {
  const absl::Time start = clock_->Now();
  Lane::StepResult result = lane->Step(may_run_ahead);
  for (int i = 0; i < result.preempted; ++i) observer_->OnPreempted();
  if (result.prefix_queries > 0) observer_->OnLetIn(result.prefix_queries, result.prefix_hits);
  int prompt_tokens = 0, generated = 0;
  for (const Lane::Output& output : result.outputs) {
    Task* task = output.task;
    if (task->started == absl::InfinitePast()) {
      task->started = start;
      if (task->generation) task->generation->SetQueued(Seconds(start - task->arrival));
      if (task->score && task->kind == Task::Kind::kScorePrompt) {
        task->score->result.timings.queue_seconds = Seconds(start - task->arrival);
      }
    }
    const bool decodes = task->got_first_token && output.computed == 1;
    if (!decodes) prompt_tokens += static_cast<int>(output.computed);
    // The end of the prompt yields the answer's first token.
    if (task->kind == Task::Kind::kAnswer && output.ends_input) ++generated;
  }
  ReadLogits(&result.outputs);
  const int sequences = static_cast<int>(result.outputs.size());
  for (const Lane::Output& output : result.outputs) {
    if (output.rows > 0) Handle(lane, output);
  }
  for (Task* task : result.failed) Fail(lane, task, result.error);
  observer_->OnStep(sequences, prompt_tokens, generated, Seconds(clock_->Now() - start));
}

void EngineImpl::Handle(Lane* lane, const Lane::Output& output) {
  switch (output.task->kind) {
    case Task::Kind::kAnswer: return HandleAnswer(lane, output);
    case Task::Kind::kScorePrompt: return HandlePrompt(lane, output);
    case Task::Kind::kScoreContinuation: return HandleContinuation(lane, output);
  }
}

void EngineImpl::NoteFirstToken(Task* task) {
  const absl::Time now = clock_->Now();
  if (!task->got_first_token) {
    const double seconds = Seconds(now - task->arrival);
    task->got_first_token = true;
    if (task->generation) task->generation->SetFirstToken(seconds);
    observer_->OnFirstToken(*task->model, Seconds(task->started - task->arrival), Seconds(now - task->started), seconds);
  } else {
    observer_->OnInterTokenLatency(*task->model, Seconds(now - task->last_token));
  }
  task->last_token = now;
}

void EngineImpl::HandleAnswer(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  if (!output.ends_input) return;  // more of the prompt to read
  const GenerateParams& params = task->generation->params;
  const int32_t token = output.chosen;
  NoteFirstToken(task);
  if (std::find(task->ends.begin(), task->ends.end(), token) != task->ends.end()) {
    return Finish(lane, task, FinishReason::kStop);
  }
  GenerationUpdate update;
  update.index = task->index;
  update.has_token = true;
  update.token.id = token;
  if (params.logprobs || params.top_logprobs > 0) {
    update.token.logprob = LogProbability(output.logits, output.vocab, token);
    update.token.alternatives = TopLogprobs(output.logits, output.vocab, params.top_logprobs);
  }
  task->sequence.tokens.push_back(token);
  const bool full = static_cast<int64_t>(task->sequence.tokens.size()) >= task->model->base->config.context;
  if (task->generated() >= params.max_tokens || full) update.finish = FinishReason::kLength;
  const bool ends_here = update.finish != FinishReason::kNone;
  task->generation->Push(std::move(update), clock_->Now());
  if (!ends_here) return;
  observer_->OnFinished(*task->model, FinishReason::kLength, static_cast<int>(task->prompt_tokens),
                        static_cast<int>(task->generated()), task->generation->timings());
  lane->Remove(task);
}

// Scores the token that a row predicts.
void ScoreToken(const float* logits, const LogitRow& row, int32_t token, ScoredContinuation* scored) {
  TokenInfo info;
  info.id = token;
  info.logprob = static_cast<float>(logits[token] - row.log_sum);
  const bool greedy = row.argmax == token;
  scored->logprob += info.logprob;
  scored->is_greedy = scored->is_greedy && greedy;
  scored->greedy.push_back(greedy);
  scored->tokens.push_back(std::move(info));
}

void EngineImpl::HandlePrompt(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  if (!output.ends_input) return;
  NoteFirstToken(task);
  std::shared_ptr<ScoreState> score = task->score;
  score->result.timings.first_token_seconds = Seconds(clock_->Now() - score->arrival);
  for (size_t i = 0; i < score->params.continuations.size(); ++i) {
    const std::vector<int32_t>& continuation = score->params.continuations[i];
    ScoreToken(output.logits, output.summaries[0], continuation[0], &score->result.continuations[i]);
    if (continuation.size() == 1) {
      --score->open;
      continue;
    }
    auto child = std::make_unique<Task>();
    child->kind = Task::Kind::kScoreContinuation;
    child->model = task->model;
    child->sequence.tokens = task->sequence.tokens;
    child->sequence.tokens.insert(child->sequence.tokens.end(), continuation.begin(), continuation.end() - 1);
    child->prompt_tokens = task->prompt_tokens;
    child->sequence.model = task->sequence.model;
    child->sequence.most_reused = task->prompt_tokens - 1;  // what follows is to be scored
    child->score = score;
    child->index = static_cast<int>(i);
    child->arrival = task->arrival;
    child->started = task->started;
    child->got_first_token = true;
    lane->AddFork(*task, std::move(child));
  }
  if (score->open == 0) EndScore(score.get(), *task);
  lane->Remove(task);
}

void EngineImpl::HandleContinuation(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  std::shared_ptr<ScoreState> score = task->score;
  const std::vector<int32_t>& continuation = score->params.continuations[task->index];
  for (int64_t i = 0; i < output.rows; ++i) {
    // The row after position p predicts the token at p + 1.
    const int64_t next = output.first_position + i + 1 - task->prompt_tokens;
    ScoreToken(output.logits + i * output.vocab, output.summaries[i], continuation[next],
               &score->result.continuations[task->index]);
  }
  if (!output.ends_input) return;
  if (--score->open == 0) EndScore(score.get(), *task);
  lane->Remove(task);
}

void EngineImpl::EndScore(ScoreState* score, const Task& task) {
  if (score->ended) return;
  score->ended = true;
  score->result.timings.total_seconds = Seconds(clock_->Now() - score->arrival);
  int tokens = 0;
  for (const auto& continuation : score->params.continuations) tokens += static_cast<int>(continuation.size());
  observer_->OnFinished(*task.model, FinishReason::kStop, static_cast<int>(task.prompt_tokens), tokens,
                        score->result.timings);
  score->done(std::move(score->result));
}

void EngineImpl::Finish(Lane* lane, Task* task, FinishReason reason) {
  GenerationUpdate update;
  update.index = task->index;
  update.finish = reason;
  task->generation->Push(std::move(update), clock_->Now());
  observer_->OnFinished(*task->model, reason, static_cast<int>(task->prompt_tokens),
                        static_cast<int>(task->generated()), task->generation->timings());
  lane->Remove(task);
}

void EngineImpl::Fail(Lane* lane, Task* task, const absl::Status& status) {
  FailDetached(task, status);
  lane->Remove(task);
}

void EngineImpl::FailDetached(Task* task, const absl::Status& status) {
  if (task->generation) {
    task->generation->Fail(status, clock_->Now());
  } else if (!task->score->ended) {
    task->score->ended = true;
    task->score->done(status);
  }
}

void EngineImpl::PublishStats() {
  int64_t running = 0, waiting = 0, used = 0, total = 0;
  for (const auto& lane : lanes_) {
    running += lane->running();
    waiting += lane->waiting();
    used += lane->pages().used();
    total += lane->pages().total();
  }
  running_ = static_cast<int>(running);
  waiting_ = static_cast<int>(waiting);
  pages_used_ = used;
  pages_total_ = total;
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->waiting = waiting;
}

}  // namespace

absl::StatusOr<ScoreResult> Engine::Score(ScoreParams params) {
  absl::Notification done;
  absl::StatusOr<ScoreResult> result = absl::UnknownError("not scored");
  ScoreAsync(std::move(params), [&](absl::StatusOr<ScoreResult> r) {
    result = std::move(r);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

std::unique_ptr<Engine> MakeEngine(const EngineOptions& options, const ComputeTarget&, Arbiter* arbiter,
                                   const Clock* clock, EngineObserver* observer) {
  return std::make_unique<EngineImpl>(options, arbiter, clock, observer);
}

}  // namespace attune
