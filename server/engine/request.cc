#include "server/engine/request.h"

#include "server/adapters/adapter.h"

namespace attune {

bool GenerationState::Next(GenerationUpdate* update) {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](GenerationState* self) ABSL_NO_THREAD_SAFETY_ANALYSIS { return self->Ready(); }, this));
  if (updates_.empty()) return false;
  *update = std::move(updates_.front());
  updates_.pop_front();
  return true;
}

void GenerationState::Close(int index) {
  if (stopped_[index]) return;
  stopped_[index] = true;
  --open_;
}

void GenerationState::StopAnswer(int index) {
  absl::MutexLock lock(&mutex_);
  Close(index);
  std::erase_if(updates_, [&](const GenerationUpdate& update) { return update.index == index; });
}

void GenerationState::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = cancelled_ || open_ > 0;
  for (int i = 0; i < params.n; ++i) Close(i);
  updates_.clear();
}

absl::Status GenerationState::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

RequestTimings GenerationState::timings() const {
  absl::MutexLock lock(&mutex_);
  return timings_;
}

bool GenerationState::IsStopped(int index) const {
  absl::MutexLock lock(&mutex_);
  return stopped_[index];
}

bool GenerationState::IsCancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

RequestTimings GenerationState::TimingsAt(absl::Time now) const {
  RequestTimings out = timings();
  out.total_seconds = absl::ToDoubleSeconds(now - arrival);
  return out;
}

void GenerationState::SetCached(int64_t tokens) {
  absl::MutexLock lock(&mutex_);
  timings_.cached_tokens = tokens;
}

void GenerationState::AddDrafts(int64_t drafted, int64_t accepted) {
  absl::MutexLock lock(&mutex_);
  timings_.drafted_tokens += drafted;
  timings_.accepted_tokens += accepted;
}

void GenerationState::Push(GenerationUpdate update, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (stopped_[update.index]) return;
  timings_.total_seconds = absl::ToDoubleSeconds(now - arrival);
  if (update.finish != FinishReason::kNone) Close(update.index);
  updates_.push_back(std::move(update));
}

void GenerationState::Fail(absl::Status status, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (open_ > 0) status_ = std::move(status);
  timings_.total_seconds = absl::ToDoubleSeconds(now - arrival);
  for (int i = 0; i < params.n; ++i) Close(i);
}

void GenerationState::SetQueued(double seconds) {
  absl::MutexLock lock(&mutex_);
  timings_.queue_seconds = seconds;
}

void GenerationState::SetFirstToken(double seconds) {
  absl::MutexLock lock(&mutex_);
  if (timings_.first_token_seconds == 0) timings_.first_token_seconds = seconds;
}

std::vector<int32_t> VirtualTokens(const ServedModel& model) {
  std::vector<int32_t> tokens;
  const int64_t count = model.adapter ? model.adapter->virtual_tokens() : 0;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(-1 - i));
  return tokens;
}

std::unique_ptr<Task> ForkOf(const Task& parent) {
  auto child = std::make_unique<Task>();
  child->kind = parent.kind;
  child->model = parent.model;
  child->sequence.tokens = parent.sequence.tokens;
  child->sequence.model = parent.sequence.model;
  child->sequence.tenant = parent.sequence.tenant;
  child->sequence.priority = parent.sequence.priority;
  child->sequence.most_tokens = parent.sequence.most_tokens;
  child->prompt_tokens = parent.prompt_tokens;
  child->generation = parent.generation;
  child->score = parent.score;
  child->index = parent.index;
  child->sampling = parent.sampling;
  child->arrival = parent.arrival;
  child->started = parent.started;
  child->last_token = parent.last_token;
  child->deadline = parent.deadline;
  child->got_first_token = parent.got_first_token;
  child->ends = parent.ends;
  child->beams = parent.beams;
  return child;
}

}  // namespace attune
