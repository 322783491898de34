#include "server/engine/swap_space.h"

#include <cassert>

namespace attune {

bool IsWorthSwapping(int64_t tokens, int64_t page_tokens) { return tokens >= page_tokens; }

std::optional<std::vector<int32_t>> SwapSpace::Allocate(int64_t count) {
  while (static_cast<int64_t>(free_.size()) < count) {
    const int64_t added = grow_();
    if (added <= 0) return std::nullopt;
    const int64_t first = total();
    is_used_.resize(first + added, false);
    for (int64_t slot = first + added - 1; slot >= first; --slot) free_.push_back(static_cast<int32_t>(slot));
  }
  std::vector<int32_t> slots;
  for (int64_t i = 0; i < count; ++i) {
    slots.push_back(free_.back());
    free_.pop_back();
    is_used_[slots.back()] = true;
  }
  return slots;
}

void SwapSpace::Release(const std::vector<int32_t>& slots) {
  for (int32_t slot : slots) {
    assert(is_used_[slot]);
    is_used_[slot] = false;
    free_.push_back(slot);
  }
}

}  // namespace attune
