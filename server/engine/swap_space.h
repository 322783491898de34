#ifndef ATTUNE_SERVER_ENGINE_SWAP_SPACE_H_
#define ATTUNE_SERVER_ENGINE_SWAP_SPACE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace attune {

// Whether the keys and values of so many tokens are better copied to the host and back than computed
// anew. Below a page they are not: the copies are of whole pages, and so few tokens are computed
// beside others' for next to nothing.
bool IsWorthSwapping(int64_t tokens, int64_t page_tokens);

// Counts the slots of host memory, a page each, that hold pages of sequences which gave theirs up;
// holds no memory itself. Not thread-safe.
class SwapSpace {
 public:
  // `grow` makes room for more slots, behind those that there are, and says for how many: 0 if there
  // is no memory for them. Slots are never given back.
  explicit SwapSpace(std::function<int64_t()> grow) : grow_(std::move(grow)) {}

  // So many slots, or nothing if there is no room for all of them.
  std::optional<std::vector<int32_t>> Allocate(int64_t count);
  // REQUIRES: the slots are allocated.
  void Release(const std::vector<int32_t>& slots);

  // Slots that there are, and those of them that are allocated.
  int64_t total() const { return static_cast<int64_t>(is_used_.size()); }
  int64_t used() const { return total() - static_cast<int64_t>(free_.size()); }

 private:
  const std::function<int64_t()> grow_;
  std::vector<bool> is_used_;  // by slot
  std::vector<int32_t> free_;  // a stack
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_SWAP_SPACE_H_
