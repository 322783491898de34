#ifndef ATTUNE_SERVER_ENGINE_SEQUENCE_H_
#define ATTUNE_SERVER_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <limits>
#include <vector>

namespace attune {

// A sequence of tokens that the engine works on, and how far it is. Holds no tensor.
struct Sequence {
  // Virtual token i of a soft prompt is -1 - i; then the prompt; then what was generated.
  std::vector<int32_t> tokens;
  // Tokens whose keys and values are cached, from the first on, or will be after the steps on
  // their way.
  int64_t computed = 0;
  // Tokens that steps on their way will add, chosen on the device.
  int64_t in_flight = 0;
  // It ends at so many tokens at the latest, and the last one is never computed.
  int64_t most_tokens = std::numeric_limits<int64_t>::max();
  // Pages that hold them, in order.
  std::vector<int32_t> pages;

  // The last so many of `tokens` are guesses, for the next step to check.
  int64_t drafted = 0;
  // It is not to be computed now.
  bool is_held = false;

  // Whose weights and adapter compute it: sequences of different ones share nothing.
  uint64_t model = 0;
  // Who asks; and how urgently: higher goes first.
  uint64_t tenant = 0;
  int priority = 0;
  // Its place in the order of being let in for the first time, which forks share; -1 before.
  int64_t ticket = -1;
  // Of its first tokens at most so many may come from a cache: what follows is wanted from the
  // pass itself.
  int64_t most_reused = std::numeric_limits<int64_t>::max();
  // Tokens it came with, and its full pages that the prefix cache has seen.
  int64_t given = 0;
  int64_t remembered = 0;
  // Tokens that were in the cache when it was first let in; -1 before.
  int64_t reused = -1;
  // It ran before and gave its pages up.
  bool was_preempted = false;
  // While it waits: slots of a swap space that hold what its pages held, in order, and for how many of its first
  // tokens, as they are now, that is right.
  std::vector<int32_t> swap_slots;
  int64_t swapped = 0;
  // Whether what its pages hold can be relied on.
  bool is_sound = true;

  // Tokens that are known, guesses left out.
  int64_t known() const { return static_cast<int64_t>(tokens.size()) - drafted; }
  int64_t remaining() const { return static_cast<int64_t>(tokens.size()) + in_flight - computed; }
  // Takes the guesses back.
  void DropDrafts() {
    tokens.resize(tokens.size() - drafted);
    drafted = 0;
  }
  // Whether all that it will ever need is computed or on its way.
  bool is_ending() const {
    return in_flight > 0 && static_cast<int64_t>(tokens.size()) + in_flight >= most_tokens;
  }
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_SEQUENCE_H_
