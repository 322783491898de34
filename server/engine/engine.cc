#include "server/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/error.h"
#include "server/engine/answering.h"
#include "server/engine/background.h"
#include "server/engine/choose_tokens.h"
#include "server/engine/drafting.h"
#include "server/engine/embedding.h"
#include "server/engine/lane.h"
#include "server/engine/request.h"
#include "server/engine/scoring.h"

namespace attune {
namespace {

absl::Status ShuttingDown() {
  return MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "The server is shutting down.");
}

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

std::vector<int32_t> WithVirtualTokens(const ServedModel& model, const std::vector<int32_t>& prompt) {
  std::vector<int32_t> tokens = VirtualTokens(model);
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
      : options_(options),
        arbiter_(arbiter),
        clock_(clock),
        observer_(observer ? observer : &nobody_),
        swap_memory_(options.swap_bytes),
        prompt_logits_(options.prefix_cache ? options.prompt_logits_bytes : 0),
        background_(std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 8)),
        drafting_([this](const BaseModel& base) { return LaneFor(base); }),
        answering_(clock, observer_, &background_, &drafting_),
        scoring_(clock, observer_) {
    thread_ = std::thread([this] { Loop(); });
  }
  ~EngineImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::StatusOr<std::unique_ptr<Generation>> Generate(GenerateParams params) override;
  void ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) override;
  void EmbedAsync(EmbedParams params, std::function<void(absl::StatusOr<EmbedResult>)> done) override;
  EngineStats stats() const override;
  void Shutdown(absl::Duration grace) override;

 private:
  struct Inbox {
    absl::Mutex mutex;
    std::vector<std::unique_ptr<Task>> tasks ABSL_GUARDED_BY(mutex);
    std::vector<std::unique_ptr<EmbedTask>> embeds ABSL_GUARDED_BY(mutex);
    bool draining ABSL_GUARDED_BY(mutex) = false;  // no new requests
    bool ending ABSL_GUARDED_BY(mutex) = false;    // cancel what runs and end the thread
    bool idle ABSL_GUARDED_BY(mutex) = true;       // no task anywhere
    int64_t waiting ABSL_GUARDED_BY(mutex) = 0;    // tasks not let in yet, of the last step
  };

  absl::Status CheckSize(const ServedModel& model, int64_t tokens) const;
  absl::Status CheckBeams(const GenerateParams& params, int64_t prompt_tokens) const;
  // Whether one more may wait.
  absl::Status CheckQueue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(inbox_->mutex);
  absl::Status Submit(std::unique_ptr<Task> task);

  // The engine's thread.
  void Loop();
  bool TakeInbox();
  void Admit(std::unique_ptr<Task> task);
  absl::StatusOr<Lane*> LaneFor(const BaseModel& base);
  void DropAbandoned();
  void StepLanes();
  void StepLane(Lane* lane, bool may_run_ahead);
  void NoteStart(Task* task, absl::Time start);
  void Handle(Lane* lane, const Lane::Output& output);
  void Fail(Lane* lane, Task* task, const absl::Status& status);
  void FailDetached(Task* task, const absl::Status& status);
  void StepEmbeds();
  void PublishStats();

  EngineObserver nobody_;
  const EngineOptions options_;
  Arbiter* const arbiter_;
  const Clock* const clock_;
  EngineObserver* const observer_;
  MemoryBudget swap_memory_;
  PromptLogits prompt_logits_;  // the engine's thread only
  const std::unique_ptr<Inbox> inbox_ = std::make_unique<Inbox>();
  std::vector<std::unique_ptr<Lane>> lanes_;  // the engine's thread only
  std::deque<std::unique_ptr<EmbedTask>> embeds_;
  Background background_;
  Drafting drafting_;  // and these
  Answering answering_;
  Scoring scoring_;
  std::atomic<int> running_{0}, waiting_{0};
  std::atomic<int64_t> pages_used_{0}, pages_total_{0}, swap_used_{0};
  absl::Mutex join_mutex_;
  std::thread thread_;
};

absl::Status EngineImpl::CheckSize(const ServedModel& model, int64_t tokens) const {
  const int64_t most = std::min(model.base->config.context, options_.kv_tokens / Lane::kPageTokens * Lane::kPageTokens);
  if (tokens <= most) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG",
                   absl::StrCat("prompt and answer take ", tokens, " tokens; there is room for ", most));
}

// All beams must fit at once: they wait for each other.
absl::Status EngineImpl::CheckBeams(const GenerateParams& params, int64_t prompt_tokens) const {
  const int64_t tokens = std::min(prompt_tokens + params.max_tokens, params.model->base->config.context);
  const int64_t pages = (tokens + Lane::kPageTokens - 1) / Lane::kPageTokens;
  if (params.beams * pages <= options_.kv_tokens / Lane::kPageTokens) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG",
                   absl::StrCat(params.beams, " beams of ", tokens, " tokens take more than the KV cache holds, ",
                                options_.kv_tokens, " tokens"));
}

absl::Status EngineImpl::CheckQueue() const {
  if (inbox_->draining) {
    return ShuttingDown();
  }
  if (inbox_->waiting + static_cast<int64_t>(inbox_->tasks.size() + inbox_->embeds.size()) >= options_.max_waiting) {
    return MakeError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "Too many requests wait; try again later.");
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::Submit(std::unique_ptr<Task> task) {
  absl::MutexLock lock(&inbox_->mutex);
  ATTUNE_RETURN_IF_ERROR(CheckQueue());
  inbox_->tasks.push_back(std::move(task));
  inbox_->idle = false;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Generation>> EngineImpl::Generate(GenerateParams params) {
  const absl::Time now = clock_->Now();
  std::vector<int32_t> tokens = WithVirtualTokens(*params.model, params.prompt);
  ATTUNE_RETURN_IF_ERROR(CheckSize(*params.model, static_cast<int64_t>(tokens.size()) + params.max_tokens));
  if (params.beams > 0) ATTUNE_RETURN_IF_ERROR(CheckBeams(params, static_cast<int64_t>(tokens.size())));
  auto state = std::make_shared<GenerationState>(std::move(params), now);
  ATTUNE_RETURN_IF_ERROR(Submit(Answering::MakeTask(state, std::move(tokens))));
  return std::make_unique<GenerationHandle>(std::move(state));
}

void EngineImpl::ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) {
  size_t longest = 0;
  for (const auto& continuation : params.continuations) longest = std::max(longest, continuation.size());
  std::vector<int32_t> tokens = WithVirtualTokens(*params.model, params.prompt);
  absl::Status status = CheckSize(*params.model, static_cast<int64_t>(tokens.size() + longest));
  if (status.ok()) status = Submit(Scoring::MakeTask(std::move(params), std::move(tokens), done, clock_->Now()));
  if (!status.ok()) done(status);
}

void EngineImpl::EmbedAsync(EmbedParams params, std::function<void(absl::StatusOr<EmbedResult>)> done) {
  absl::Status status;
  const int64_t virtual_tokens = static_cast<int64_t>(VirtualTokens(*params.model).size());
  for (const std::vector<int32_t>& input : params.inputs) {
    status.Update(CheckSize(*params.model, virtual_tokens + static_cast<int64_t>(input.size())));
  }
  if (!status.ok()) return done(status);
  auto task = std::make_unique<EmbedTask>(std::move(params), done, clock_->Now());
  {
    absl::MutexLock lock(&inbox_->mutex);
    status = CheckQueue();
    if (status.ok()) {
      inbox_->embeds.push_back(std::move(task));
      inbox_->idle = false;
    }
  }
  if (!status.ok()) done(status);
}

EngineStats EngineImpl::stats() const { return {running_, waiting_, pages_used_, pages_total_, swap_used_}; }

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
    StepEmbeds();
    for (auto& lane : lanes_) lane->Bury();
    PublishStats();
  }
  const absl::Status ended = ShuttingDown();
  for (auto& lane : lanes_) {
    for (Task* task : lane->tasks()) {
      if (task->is_removed || task->kind == Task::Kind::kDraft) continue;
      if (task->generation) {
        answering_.Finish(lane.get(), task, FinishReason::kCancelled);
      } else {
        FailDetached(task, ended);
      }
    }
  }
  for (auto& embed : embeds_) {
    embed->Fail(ended);
    embed->Finish(clock_->Now());
  }
}

// A part of whoever has waited longest, so that running answers get on in between.
void EngineImpl::StepEmbeds() {
  if (embeds_.empty()) return;
  EmbedTask* task = embeds_.front().get();
  if (!task->IsStarted() && clock_->Now() >= task->params().deadline) {
    task->Fail(MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                         "The deadline passed before the request's turn came."));
  } else {
    const absl::Time start = clock_->Now();
    int64_t tokens = 0;
    {
      const Arbiter::Turn turn = arbiter_->Acquire(WorkClass::kGeneration);
      tokens = task->Step(options_.max_batch_tokens, start);
    }
    observer_->OnStep(1, static_cast<int>(tokens), 0, Seconds(clock_->Now() - start));
  }
  if (!task->IsDone()) return;
  const absl::Time now = clock_->Now();
  if (task->status().ok()) {
    observer_->OnFinished(*task->params().model, FinishReason::kStop, static_cast<int>(task->tokens()), 0,
                          task->TimingsAt(now));
  }
  task->Finish(now);
  embeds_.pop_front();
}

// Waits until there is something to do; false when the engine ends.
bool EngineImpl::TakeInbox() {
  bool busy = !embeds_.empty();
  for (const auto& lane : lanes_) busy = busy || !lane->empty();
  std::vector<std::unique_ptr<Task>> tasks;
  {
    absl::MutexLock lock(&inbox_->mutex);
    inbox_->idle = !busy && inbox_->tasks.empty() && inbox_->embeds.empty();
    if (!busy) {
      inbox_->mutex.Await(absl::Condition(
          +[](Inbox* inbox) ABSL_NO_THREAD_SAFETY_ANALYSIS { return !inbox->tasks.empty() || !inbox->embeds.empty() || inbox->ending; },
          inbox_.get()));
    }
    tasks.swap(inbox_->tasks);
    for (auto& embed : inbox_->embeds) embeds_.push_back(std::move(embed));
    inbox_->embeds.clear();
    if (inbox_->ending) {
      for (auto& task : tasks) FailDetached(task.get(), ShuttingDown());
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
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Lane> lane, Lane::Make(base, options_, arbiter_, &swap_memory_, &prompt_logits_, clock_));
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
      if (task->is_removed) continue;
      if (task->IsAbandoned()) {
        if (task->generation) answering_.CountAbandoned(*task);
        answering_.Drop(lane.get(), task);
      } else if (now >= task->deadline && task->sequence.computed == 0 && !task->got_first_token) {
        Fail(lane.get(), task, MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                                         "The deadline passed before the request's turn came."));
      }
    }
  }
}

// The turn on the device is one lane's at a time: who has kept it goes first, and gives it up
// if there are others.
void EngineImpl::StepLanes() {
  std::vector<Lane*> active;
  for (auto& lane : lanes_) {
    if (!lane->empty()) active.push_back(lane.get());
  }
  std::stable_partition(active.begin(), active.end(), [](const Lane* lane) { return lane->has_turn(); });
  for (Lane* lane : active) StepLane(lane, /*may_run_ahead=*/active.size() == 1 && embeds_.empty());
}

void EngineImpl::NoteStart(Task* task, absl::Time start) {
  task->started = start;
  const double queued = Seconds(start - task->arrival);
  const int64_t cached = std::max<int64_t>(task->sequence.reused, 0);
  if (task->generation) {
    task->generation->SetQueued(queued);
    task->generation->SetCached(cached);
  } else if (task->kind == Task::Kind::kScorePrompt) {
    task->score->result.timings.queue_seconds = queued;
    task->score->result.timings.cached_tokens = cached;
  }
}

void EngineImpl::StepLane(Lane* lane, bool may_run_ahead) {
  const absl::Time start = clock_->Now();
  Lane::StepResult result = lane->Step(may_run_ahead);
  for (Task* task : result.preempted) {
    observer_->OnPreempted();
    if (task->kind == Task::Kind::kDraft) drafting_.HandlePreempted(task);
  }
  if (result.bytes_out + result.bytes_in > 0) {
    observer_->OnSwapped(result.swapped_out, result.bytes_out, result.bytes_in);
  }
  for (int64_t i = 0; i < result.known_prompts; ++i) observer_->OnKnownPrompt();
  if (result.lateness >= absl::ZeroDuration()) observer_->OnPutOff(Seconds(result.lateness));
  if (result.prefix_queries > 0) observer_->OnLetIn(result.prefix_queries, result.prefix_hits);
  ChooseTokens(&result.outputs);
  int prompt_tokens = 0, generated = 0;
  for (const Lane::Output& output : result.outputs) {
    Task* task = output.task;
    if (task->started == absl::InfinitePast()) NoteStart(task, start);
    const bool decodes = task->got_first_token && output.computed <= 1 + task->sequence.drafted;
    if (!decodes) prompt_tokens += static_cast<int>(output.computed);
    // The end of the prompt yields the answer's first token.
    if (task->kind == Task::Kind::kAnswer) generated += static_cast<int>(output.chosen.size());
    if (task->kind == Task::Kind::kBeam && output.ends_input) ++generated;
  }
  // Those that begin with what is known are in no step.
  const int sequences = static_cast<int>(result.outputs.size()) - static_cast<int>(result.known_prompts);
  for (const Lane::Output& output : result.outputs) {
    if (output.rows > 0 && !output.task->is_removed) Handle(lane, output);
  }
  for (Task* task : result.failed) {
    if (!task->is_removed) Fail(lane, task, result.error);
  }
  if (sequences > 0) observer_->OnStep(sequences, prompt_tokens, generated, Seconds(clock_->Now() - start));
}

void EngineImpl::Handle(Lane* lane, const Lane::Output& output) {
  switch (output.task->kind) {
    case Task::Kind::kAnswer: return answering_.HandleAnswer(lane, output);
    case Task::Kind::kBeam: return answering_.HandleBeam(lane, output);
    case Task::Kind::kDraft: return drafting_.HandleDraft(output);
    case Task::Kind::kScorePrompt: return scoring_.HandlePrompt(lane, output);
    case Task::Kind::kScoreContinuation: return scoring_.HandleContinuation(lane, output);
  }
}

void EngineImpl::Fail(Lane* lane, Task* task, const absl::Status& status) {
  if (task->kind == Task::Kind::kDraft) return drafting_.HandleFailed(task);
  FailDetached(task, status);
  answering_.Drop(lane, task);
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
  int64_t running = 0, waiting = 0, used = 0, total = 0, swapped = 0;
  for (const auto& lane : lanes_) {
    running += lane->running();
    waiting += lane->waiting();
    used += lane->pages().used();
    total += lane->pages().total();
    swapped += lane->swap_bytes();
  }
  running_ = static_cast<int>(running);
  waiting_ = static_cast<int>(waiting);
  pages_used_ = used;
  pages_total_ = total;
  swap_used_ = swapped;
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->waiting = waiting;
}

}  // namespace

bool IsQueueFull(const absl::Status& status) { return GetErrorDetails(status).reason == "QUEUE_FULL"; }

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
