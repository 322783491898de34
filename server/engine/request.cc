#include "server/engine/request.h"

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

}  // namespace attune
