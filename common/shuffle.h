#ifndef ATTUNE_COMMON_SHUFFLE_H_
#define ATTUNE_COMMON_SHUFFLE_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace attune {

// Fisher and Yates (Durstenfeld 1964). `below(n)` draws from [0, n), for n from the size down to 2. The order depends on
// what it draws alone: std::shuffle's is each library's own affair, and a resumed job must see the same one everywhere.
template <typename T, typename Below>
void Shuffle(std::vector<T>* items, Below below) {
  for (int64_t n = static_cast<int64_t>(items->size()); n > 1; --n) std::swap((*items)[n - 1], (*items)[below(n)]);
}

}  // namespace attune

#endif  // ATTUNE_COMMON_SHUFFLE_H_
