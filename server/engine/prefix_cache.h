#ifndef ATTUNE_SERVER_ENGINE_PREFIX_CACHE_H_
#define ATTUNE_SERVER_ENGINE_PREFIX_CACHE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "server/engine/kv_pages.h"
#include "server/engine/sequence.h"

namespace attune {

// Full pages of sequences that were computed, for others with the same beginning under the
// same model: a tree of pages for each model, each known by all tokens before and in it, which
// are compared, not hashed. Pages that nobody uses, a deleted model's among them, stay until
// room is needed; the one that was used longest ago goes first, and none before those that
// continue it. Holds no tensor. Not thread-safe.
class PrefixCache {
 public:
  // `pages` must outlive this.
  explicit PrefixCache(KvPages* pages) : pages_(pages) {}

  // Gives a sequence without pages the longest known beginning, of at most `most` tokens:
  // its pages, shared, and `computed` accordingly. Returns the tokens.
  int64_t Take(Sequence* sequence, int64_t most);
  // Remembers the sequence's full pages that are computed and whose tokens are known.
  void Put(Sequence* sequence);
  // Lets pages go that nobody uses until `count` are free, or no such page is left.
  void MakeRoom(int64_t count);

  int64_t size() const { return size_; }  // pages known

 private:
  struct Node {
    int32_t page = -1;  // none: the root of a model
    int64_t last_used = 0;
    uint64_t model = 0;  // a root's
    Node* parent = nullptr;
    std::map<std::vector<int32_t>, std::unique_ptr<Node>> children;  // by the page's tokens
  };

  void Touch(Node* node);
  void Drop(Node* leaf);

  KvPages* const pages_;
  std::set<std::pair<int64_t, Node*>> leaves_;  // by age: what may go next
  std::map<uint64_t, std::unique_ptr<Node>> roots_;
  int64_t clock_ = 0, size_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_PREFIX_CACHE_H_
