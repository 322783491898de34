#include "server/engine/batch_scheduler.h"

#include <algorithm>

namespace attune {

void BatchScheduler::Add(Sequence* sequence) {
  sequence->given = static_cast<int64_t>(sequence->tokens.size());
  waiting_.push_back(sequence);
}

void BatchScheduler::AddRunning(Sequence* sequence) {
  sequence->given = static_cast<int64_t>(sequence->tokens.size());
  running_.push_back(sequence);
}

bool BatchScheduler::HasFree(int64_t pages) {
  if (pages_->free() < pages && reuses_prefixes_) prefixes_.MakeRoom(pages);
  return pages_->free() >= pages;
}

void BatchScheduler::FreePages(Sequence* sequence) {
  if (reuses_prefixes_ && sequence->is_sound) prefixes_.Put(*sequence);
  sequence->remembered = 0;
  for (int32_t page : sequence->pages) pages_->Release(page);
  sequence->pages.clear();
}

void BatchScheduler::Remove(Sequence* sequence) {
  FreePages(sequence);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
}

void BatchScheduler::Preempt(Sequence* sequence, Plan* plan) {
  FreePages(sequence);
  sequence->computed = 0;
  std::erase(running_, sequence);
  std::erase_if(plan->items, [&](const Item& item) { return item.sequence == sequence; });
  waiting_.push_front(sequence);
  plan->preempted.push_back(sequence);
}

bool BatchScheduler::Provide(Sequence* sequence, int64_t tokens, bool may_preempt, Plan* plan) {
  const int64_t needed = pages_->PagesFor(sequence->computed + tokens) - static_cast<int64_t>(sequence->pages.size());
  while (!HasFree(needed)) {
    if (!may_preempt) return false;
    Sequence* last = running_.back();
    Preempt(last, plan);
    if (last == sequence) return false;
  }
  for (int64_t i = 0; i < needed; ++i) sequence->pages.push_back(*pages_->Allocate());
  return true;
}

BatchScheduler::Plan BatchScheduler::Next() {
  Plan plan;
  int64_t budget = max_tokens_;
  // By index: preemption takes sequences off the back.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    // Others with the same prompt need not wait for its end.
    const bool is_new = sequence->remembered < std::min(sequence->computed, sequence->given) / pages_->page_tokens();
    if (reuses_prefixes_ && is_new) prefixes_.Put(*sequence);
    const int64_t tokens = std::min(sequence->remaining(), budget);
    if (tokens <= 0 || sequence->is_ending() || !Provide(sequence, tokens, /*may_preempt=*/true, &plan)) continue;
    plan.items.push_back({sequence, tokens});
    budget -= tokens;
  }
  // Nobody is let in in a step that had to push somebody out.
  while (plan.preempted.empty() && !waiting_.empty() && budget > 0 && running() < max_sequences_) {
    if (!LetIn(&budget, &plan)) break;
  }
  return plan;
}

bool BatchScheduler::LetIn(int64_t* budget, Plan* plan) {
  Sequence* sequence = waiting_.front();
  if (sequence->in_flight > 0) return false;  // pushed out with a token on its way, which comes first
  int64_t known = 0;
  // Something is left to compute, whatever is known.
  const int64_t most = std::min(sequence->most_reused, static_cast<int64_t>(sequence->tokens.size()) - 1);
  if (reuses_prefixes_ && sequence->computed == 0) known = prefixes_.Take(sequence, most);
  const int64_t tokens = std::min(sequence->remaining(), *budget);
  if (!Provide(sequence, tokens, /*may_preempt=*/false, plan)) {
    FreePages(sequence);
    sequence->computed = 0;
    return false;
  }
  prefix_queries_ += static_cast<int64_t>(sequence->tokens.size());
  prefix_hits_ += known;
  waiting_.pop_front();
  running_.push_back(sequence);
  plan->items.push_back({sequence, tokens});
  *budget -= tokens;
  return true;
}

bool BatchScheduler::Fork(const Sequence& parent, int64_t tokens, Sequence* child,
                          std::vector<std::pair<int32_t, int32_t>>* copies) {
  const int64_t full = tokens / pages_->page_tokens();
  const bool partial = tokens % pages_->page_tokens() != 0;
  if (partial && !HasFree(1)) return false;
  for (int64_t i = 0; i < full; ++i) {
    pages_->Share(parent.pages[i]);
    child->pages.push_back(parent.pages[i]);
  }
  if (partial) {
    child->pages.push_back(*pages_->Allocate());
    copies->emplace_back(parent.pages[full], child->pages.back());
  }
  child->computed = tokens;
  return true;
}

}  // namespace attune
