#ifndef ATTUNE_SERVER_ENGINE_KV_PAGES_H_
#define ATTUNE_SERVER_ENGINE_KV_PAGES_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace attune {

// Counts who uses which page of a KV cache; holds no tensor. A page may be shared by
// sequences with a common beginning and is free when its last user lets go, unless it is
// kept for sequences to come. Not thread-safe.
class KvPages {
 public:
  KvPages(int64_t pages, int64_t page_tokens);

  int64_t page_tokens() const { return page_tokens_; }
  int64_t total() const { return static_cast<int64_t>(users_.size()); }
  // That somebody uses; the others are free, or idle: kept, without a user.
  int64_t used() const { return total() - free() - idle_; }
  int64_t idle() const { return idle_; }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  // Pages that `tokens` tokens need.
  int64_t PagesFor(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

  // A page with one user; nothing if all are in use.
  std::optional<int32_t> Allocate();
  // One more user. REQUIRES: the page is in use or kept.
  void Share(int32_t page);
  // One user less. REQUIRES: the page is in use.
  void Release(int32_t page);
  int32_t users(int32_t page) const { return users_[page]; }

  // Keeps a page when its last user lets go. REQUIRES: the page is in use, and not kept.
  void Keep(int32_t page);
  // Keeps it no longer. REQUIRES: it is kept.
  void LetGo(int32_t page);

 private:
  const int64_t page_tokens_;
  std::vector<int32_t> users_;  // by page
  std::vector<bool> kept_;      // by page
  std::vector<int32_t> free_;   // a stack
  int64_t idle_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_KV_PAGES_H_
