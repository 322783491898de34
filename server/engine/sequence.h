#ifndef ATTUNE_SERVER_ENGINE_SEQUENCE_H_
#define ATTUNE_SERVER_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <vector>

namespace attune {

// A sequence of tokens that the engine works on, and how far it is. Holds no tensor.
struct Sequence {
  // Virtual token i of a soft prompt is -1 - i; then the prompt; then what was generated.
  std::vector<int32_t> tokens;
  // Tokens whose keys and values are cached, from the first on.
  int64_t computed = 0;
  // Pages that hold them, in order.
  std::vector<int32_t> pages;

  int64_t remaining() const { return static_cast<int64_t>(tokens.size()) - computed; }
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_SEQUENCE_H_
