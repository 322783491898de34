#include "server/device/arbiter.h"

#include <algorithm>
#include <utility>

namespace attune {
namespace {

WorkClass OtherThan(WorkClass work) {
  return work == WorkClass::kGeneration ? WorkClass::kTraining : WorkClass::kGeneration;
}

}  // namespace

Arbiter::Turn::Turn(Turn&& other) noexcept
    : arbiter_(std::exchange(other.arbiter_, nullptr)), work_(other.work_), lateness_(other.lateness_) {}

Arbiter::Turn& Arbiter::Turn::operator=(Turn&& other) noexcept {
  if (this != &other) {
    Release();
    arbiter_ = std::exchange(other.arbiter_, nullptr);
    work_ = other.work_;
    lateness_ = other.lateness_;
  }
  return *this;
}

void Arbiter::Turn::Release() {
  if (arbiter_ != nullptr) std::exchange(arbiter_, nullptr)->GiveUp(work_);
}

Arbiter::Arbiter(const Clock* clock, const Options& options)
    : clock_(clock), options_(options), memory_(options.memory_bytes) {}

Arbiter::Turn Arbiter::Acquire(WorkClass work, Sharing sharing, absl::Duration patience) {
  absl::MutexLock lock(&mutex_);
  const bool is_patient = work == WorkClass::kGeneration && patience > absl::ZeroDuration();
  const absl::Time asked = clock_->Now();
  const absl::Time due = is_patient ? generated_at_ + patience : absl::InfinitePast();
  if (work == WorkClass::kGeneration) {
    due_ = due;
    patience_ = is_patient ? patience : absl::ZeroDuration();
  }
  const int64_t ticket = next_ticket_++;
  if (holders_ > 0 && held_by_ != work && Of(work).waiting.empty()) wanted_since_ = clock_->Now();
  Of(work).waiting.push_back(ticket);
  while (!IsNext(work, sharing, ticket)) {
    const absl::Time now = clock_->Now();
    const absl::Duration kept = kept_until_ - now;
    if (holders_ == 0 && kept_for_ != work && kept > absl::ZeroDuration()) {
      changed_.WaitWithTimeout(&mutex_, kept);
    } else if (holders_ == 0 && due > now) {
      // Training was to go first, and may find when it looks that there is no time any more.
      changed_.WaitWithTimeout(&mutex_, due - now);
    } else {
      changed_.Wait(&mutex_);
    }
  }
  Of(work).waiting.pop_front();
  ++Of(work).turns;
  if (holders_++ == 0) {
    held_by_ = work;
    held_ = sharing;
    kept_until_ = absl::InfinitePast();
    turn_start_ = booked_until_ = piece_start_ = clock_->Now();
    wanted_since_ = turn_start_;
  }
  if (sharing == Sharing::kShared) changed_.SignalAll();  // the next in line may join
  Turn turn(this, work);
  if (is_patient) turn.lateness_ = std::max(turn_start_ - std::max(due, asked), absl::ZeroDuration());
  return turn;
}

bool Arbiter::IsNext(WorkClass work, Sharing sharing, int64_t ticket) {
  if (Of(work).waiting.front() != ticket) return false;
  if (holders_ > 0) {
    return sharing == Sharing::kShared && held_ == Sharing::kShared && held_by_ == work &&
           Of(OtherThan(work)).waiting.empty();
  }
  if (!Of(OtherThan(work)).waiting.empty()) return Preferred(owed_to_training_) == work;
  return kept_for_ == work || clock_->Now() >= kept_until_;
}

WorkClass Arbiter::Preferred(absl::Duration owed) const {
  const bool has_time = clock_->Now() + piece_ < due_;
  return owed > absl::ZeroDuration() || has_time ? WorkClass::kTraining : WorkClass::kGeneration;
}

absl::Duration Arbiter::OwedAt(absl::Time now) const {
  const absl::Time since = held_ == Sharing::kShared ? wanted_since_ : turn_start_;
  const absl::Duration elapsed = std::max(now - since, absl::ZeroDuration());
  const absl::Duration change = held_by_ == WorkClass::kGeneration ? elapsed * options_.training_share
                                                                   : -elapsed * (1 - options_.training_share);
  return std::clamp(owed_to_training_ + change, -options_.max_owed, options_.max_owed);
}

// Quickly up, slowly down: what is expected is seldom too short.
void Arbiter::NotePiece(absl::Time now) {
  constexpr double kKept = 0.98;
  piece_ = std::max(now - piece_start_, piece_ * kKept);
  piece_start_ = now;
}

void Arbiter::SkipPiece() {
  absl::MutexLock lock(&mutex_);
  piece_start_ = clock_->Now();
}

bool Arbiter::ShouldPause(WorkClass work) {
  absl::MutexLock lock(&mutex_);
  if (work != WorkClass::kTraining || held_ == Sharing::kShared) return false;
  const absl::Time now = clock_->Now();
  NotePiece(now);
  return !Of(WorkClass::kGeneration).waiting.empty() && Preferred(OwedAt(now)) == WorkClass::kGeneration;
}

bool Arbiter::IsGenerating() const {
  constexpr absl::Duration kMoment = absl::Milliseconds(200);
  absl::MutexLock lock(&mutex_);
  const PerClass& generation = classes_[static_cast<int>(WorkClass::kGeneration)];
  return !generation.waiting.empty() || clock_->Now() - generated_at_ < kMoment;
}

void Arbiter::GiveUp(WorkClass work) {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_->Now();
  // A clock that was set back must not take time away.
  Of(work).used += std::max(now - booked_until_, absl::ZeroDuration());
  booked_until_ = now;
  if (--holders_ > 0) return;
  if (work == WorkClass::kGeneration) {
    generated_at_ = now;
    // The next turn is seldom in more of a hurry: training need not wait until it says so.
    if (Of(work).waiting.empty()) due_ = patience_ > absl::ZeroDuration() ? now + patience_ : absl::InfinitePast();
  }
  if (!Of(OtherThan(work)).waiting.empty()) {
    owed_to_training_ = OwedAt(now);
    if (Of(work).waiting.empty() && Preferred(owed_to_training_) == work) {
      kept_for_ = work;
      kept_until_ = now + options_.handover_gap;
    }
  }
  changed_.SignalAll();
}

double Arbiter::Seconds(WorkClass work) const {
  absl::MutexLock lock(&mutex_);
  return absl::ToDoubleSeconds(classes_[static_cast<int>(work)].used);
}

int64_t Arbiter::Turns(WorkClass work) const {
  absl::MutexLock lock(&mutex_);
  return classes_[static_cast<int>(work)].turns;
}

int Arbiter::Waiting(WorkClass work) const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(classes_[static_cast<int>(work)].waiting.size());
}

}  // namespace attune
