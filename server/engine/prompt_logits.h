#ifndef ATTUNE_SERVER_ENGINE_PROMPT_LOGITS_H_
#define ATTUNE_SERVER_ENGINE_PROMPT_LOGITS_H_

#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace attune {

// Logits that followed whole prompts, for requests with the very same prompt under the same model: their first token
// needs no pass. Prompts are compared, not only hashed. Those used longest ago make way. Holds no tensor. Not thread-safe.
class PromptLogits {
 public:
  using Row = std::shared_ptr<const std::vector<float>>;  // by token of the vocabulary

  // Takes `most_bytes` of host memory at most, tokens and rows together; with 0 it keeps nothing.
  explicit PromptLogits(int64_t most_bytes) : most_bytes_(most_bytes) {}

  // `tokens`: virtual ones included, as Sequence has them. Null if it is not known.
  Row Find(uint64_t model, absl::Span<const int32_t> tokens);
  // Keeps the row, in place of what was known, unless it alone takes more than there is.
  void Put(uint64_t model, absl::Span<const int32_t> tokens, std::vector<float> row);

  bool keeps_any() const { return most_bytes_ > 0; }
  int64_t bytes() const { return bytes_; }

 private:
  using Key = std::pair<uint64_t, std::vector<int32_t>>;
  struct Entry {
    Key key;
    Row row;
    int64_t bytes() const;
  };
  using Entries = std::list<Entry>;

  void Drop(Entries::iterator entry);

  const int64_t most_bytes_;
  int64_t bytes_ = 0;
  Entries entries_;  // last used first
  absl::flat_hash_map<Key, Entries::iterator> found_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_PROMPT_LOGITS_H_
