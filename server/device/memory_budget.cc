#include "server/device/memory_budget.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {

MemoryBudget::Reservation::Reservation(Reservation&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MemoryBudget::Reservation& MemoryBudget::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    Release();
    budget_ = std::exchange(other.budget_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void MemoryBudget::Reservation::Release() {
  if (budget_ != nullptr) std::exchange(budget_, nullptr)->GiveBack(std::exchange(bytes_, 0));
}

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(int64_t bytes, absl::string_view what) {
  absl::MutexLock lock(&mutex_);
  if (bytes > total_ - used_) {
    return MakeError(absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY_BUDGET",
                     absl::StrCat(what, " needs ", bytes, " bytes of device memory, but of ", total_, " only ",
                                  total_ - used_, " are free."));
  }
  used_ += bytes;
  return Reservation(this, bytes);
}

int64_t MemoryBudget::used() const {
  absl::MutexLock lock(&mutex_);
  return used_;
}

int64_t MemoryBudget::available() const {
  absl::MutexLock lock(&mutex_);
  return total_ - used_;
}

void MemoryBudget::GiveBack(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  used_ -= bytes;
}

}  // namespace attune
