#include "server/engine/prompt_logits.h"

#include <iterator>

namespace attune {

// A prompt is there twice: here and as the table's key.
int64_t PromptLogits::Entry::bytes() const {
  return static_cast<int64_t>(2 * key.second.size() * sizeof(int32_t) + row->size() * sizeof(float));
}

PromptLogits::Row PromptLogits::Find(uint64_t model, absl::Span<const int32_t> tokens) {
  if (found_.empty()) return nullptr;
  const auto found = found_.find(Key{model, {tokens.begin(), tokens.end()}});
  if (found == found_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->row;
}

void PromptLogits::Put(uint64_t model, absl::Span<const int32_t> tokens, std::vector<float> row) {
  Entry entry{{model, {tokens.begin(), tokens.end()}}, std::make_shared<const std::vector<float>>(std::move(row))};
  const auto before = found_.find(entry.key);
  if (before != found_.end()) Drop(before->second);
  if (entry.bytes() > most_bytes_) return;
  bytes_ += entry.bytes();
  while (bytes_ > most_bytes_) Drop(std::prev(entries_.end()));
  entries_.push_front(std::move(entry));
  found_[entries_.front().key] = entries_.begin();
}

void PromptLogits::Drop(Entries::iterator entry) {
  bytes_ -= entry->bytes();
  found_.erase(entry->key);
  entries_.erase(entry);
}

}  // namespace attune
