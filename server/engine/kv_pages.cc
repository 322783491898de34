#include "server/engine/kv_pages.h"

#include <cassert>

namespace attune {

KvPages::KvPages(int64_t pages, int64_t page_tokens) : page_tokens_(page_tokens), users_(pages, 0), kept_(pages, false) {
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

std::optional<int32_t> KvPages::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t page = free_.back();
  free_.pop_back();
  users_[page] = 1;
  return page;
}

void KvPages::Share(int32_t page) {
  assert(users_[page] > 0 || kept_[page]);
  if (users_[page]++ == 0) --idle_;
}

void KvPages::Release(int32_t page) {
  assert(users_[page] > 0);
  if (--users_[page] > 0) return;
  if (kept_[page]) {
    ++idle_;
  } else {
    free_.push_back(page);
  }
}

void KvPages::Keep(int32_t page) {
  assert(users_[page] > 0 && !kept_[page]);
  kept_[page] = true;
}

void KvPages::LetGo(int32_t page) {
  assert(kept_[page]);
  kept_[page] = false;
  if (users_[page] > 0) return;
  --idle_;
  free_.push_back(page);
}

}  // namespace attune
