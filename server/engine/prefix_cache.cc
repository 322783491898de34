#include "server/engine/prefix_cache.h"

#include <algorithm>

namespace attune {
namespace {

std::vector<int32_t> TokensOfPage(const Sequence& sequence, int64_t page, int64_t page_tokens) {
  const auto begin = sequence.tokens.begin() + page * page_tokens;
  return {begin, begin + page_tokens};
}

}  // namespace

void PrefixCache::Touch(Node* node) {
  const bool is_leaf = leaves_.erase({node->last_used, node}) > 0;
  node->last_used = ++clock_;
  if (is_leaf) leaves_.insert({node->last_used, node});
}

int64_t PrefixCache::Take(Sequence* sequence, int64_t most) {
  const auto root = roots_.find(sequence->model);
  if (root == roots_.end()) return 0;
  Node* node = root->second.get();
  const int64_t size = pages_->page_tokens();
  most = std::min(most, static_cast<int64_t>(sequence->tokens.size()));
  int64_t tokens = 0;
  for (; tokens + size <= most; tokens += size) {
    const auto child = node->children.find(TokensOfPage(*sequence, tokens / size, size));
    if (child == node->children.end()) break;
    node = child->second.get();
    pages_->Share(node->page);
    sequence->pages.push_back(node->page);
    Touch(node);
  }
  sequence->computed = tokens;
  sequence->remembered = tokens / size;
  return tokens;
}

void PrefixCache::Put(Sequence* sequence) {
  const int64_t size = pages_->page_tokens();
  const int64_t full = std::min(sequence->computed, static_cast<int64_t>(sequence->tokens.size())) / size;
  if (full <= sequence->remembered) return;
  std::unique_ptr<Node>& root = roots_[sequence->model];
  if (!root) {
    root = std::make_unique<Node>();
    root->model = sequence->model;
  }
  Node* node = root.get();
  for (int64_t i = 0; i < full; ++i) {
    std::unique_ptr<Node>& child = node->children[TokensOfPage(*sequence, i, size)];
    if (!child) {
      child = std::make_unique<Node>();
      child->page = sequence->pages[i];
      child->parent = node;
      pages_->Keep(child->page);
      ++size_;
      if (node->parent) leaves_.erase({node->last_used, node});
      child->last_used = ++clock_;
      leaves_.insert({child->last_used, child.get()});
    } else {
      Touch(child.get());
    }
    node = child.get();
    // The same tokens in another page: that one stays, and what follows is not hung on a page
    // which may go before it.
    if (node->page != sequence->pages[i]) break;
  }
  sequence->remembered = full;
}

void PrefixCache::Drop(Node* leaf) {
  leaves_.erase({leaf->last_used, leaf});
  pages_->LetGo(leaf->page);
  --size_;
  Node* parent = leaf->parent;
  std::erase_if(parent->children, [&](const auto& child) { return child.second.get() == leaf; });
  if (!parent->children.empty()) return;
  if (parent->parent) {
    leaves_.insert({parent->last_used, parent});
  } else {
    roots_.erase(parent->model);
  }
}

void PrefixCache::MakeRoom(int64_t count) {
  // Users have whole beginnings: a leaf without one may go, and then perhaps its parent, which is
  // older: in the next round.
  for (bool any = true; any && pages_->free() < count && pages_->idle() > 0;) {
    any = false;
    for (auto next = leaves_.begin(); next != leaves_.end() && pages_->free() < count;) {
      Node* node = next->second;
      const auto key = *next;
      if (pages_->users(node->page) == 0) {
        Drop(node);
        any = true;
      }
      next = leaves_.upper_bound(key);
    }
  }
}

}  // namespace attune
