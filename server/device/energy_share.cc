#include "server/device/energy_share.h"

#include <algorithm>
#include <utility>

namespace attune {

EnergyShare::EnergyShare(EnergyMeter* meter, const Clock* clock)
    : meter_(meter), clock_(clock), counted_until_(clock->Now()), read_at_(counted_until_) {
  if (meter_ != nullptr) read_ = meter_->Joules();
}

absl::Time EnergyShare::Advance() {
  // The clock may be set back.
  const absl::Time now = std::max(clock_->Now(), counted_until_);
  for (Part* part : parts_) {
    if (part->computes_) part->unread_ += (now - counted_until_) / computing_;
  }
  counted_until_ = now;
  return now;
}

void EnergyShare::Read(absl::Time now, absl::Duration interval) {
  const absl::Duration passed = now - read_at_;
  if (passed < interval || passed <= absl::ZeroDuration()) return;
  const std::optional<double> joules = meter_->Joules();
  if (!joules) return;  // the next reading tells of this time, too
  for (Part* part : parts_) {
    const absl::Duration unread = std::exchange(part->unread_, absl::ZeroDuration());
    if (!read_ || unread <= absl::ZeroDuration()) continue;
    part->joules_ = part->joules_.value_or(0) + (*joules - *read_) * absl::FDivDuration(unread, passed);
  }
  read_ = joules;
  read_at_ = now;
}

void EnergyShare::SetComputes(Part* part, bool computes) {
  absl::MutexLock lock(&mutex_);
  if (part->computes_ == computes) return;
  Read(Advance(), kReadInterval);
  part->computes_ = computes;
  computing_ += computes ? 1 : -1;
}

std::optional<double> EnergyShare::Take(Part* part, bool reads) {
  absl::MutexLock lock(&mutex_);
  Read(Advance(), reads ? absl::ZeroDuration() : kReadInterval);
  return std::exchange(part->joules_, std::nullopt);
}

EnergyShare::Part::Part(EnergyShare* share) : share_(share != nullptr && share->meter_ != nullptr ? share : nullptr) {
  if (share_ == nullptr) return;
  absl::MutexLock lock(&share_->mutex_);
  share_->parts_.insert(this);
}

EnergyShare::Part::~Part() {
  if (share_ == nullptr) return;
  Leave();
  absl::MutexLock lock(&share_->mutex_);
  share_->parts_.erase(this);
}

void EnergyShare::Part::Enter() {
  if (share_ != nullptr) share_->SetComputes(this, true);
}

void EnergyShare::Part::Leave() {
  if (share_ != nullptr) share_->SetComputes(this, false);
}

std::optional<double> EnergyShare::Part::Take() {
  return share_ != nullptr ? share_->Take(this, /*reads=*/false) : std::nullopt;
}

std::optional<double> EnergyShare::Part::TakeAll() {
  return share_ != nullptr ? share_->Take(this, /*reads=*/true) : std::nullopt;
}

}  // namespace attune
