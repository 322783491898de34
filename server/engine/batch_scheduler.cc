#include "server/engine/batch_scheduler.h"

#include <algorithm>

namespace attune {

void BatchScheduler::Enter(Sequence* sequence) {
  sequence->given = static_cast<int64_t>(sequence->tokens.size());
  Flow& flow = flows_[sequence->model];
  if (flow.sequences++ > 0) return;
  // Level with whoever is the furthest behind: no claim from before.
  bool is_alone = true;
  for (const auto& [model, other] : flows_) {
    if (model == sequence->model) continue;
    flow.served = is_alone ? other.served : std::min(flow.served, other.served);
    is_alone = false;
  }
}

void BatchScheduler::Add(Sequence* sequence) {
  Enter(sequence);
  waiting_.push_back(sequence);
}

void BatchScheduler::AddRunning(Sequence* sequence) {
  Enter(sequence);
  running_.push_back(sequence);
}

std::deque<Sequence*>::iterator BatchScheduler::FindNext() {
  if (waiting_.front()->was_preempted) return waiting_.begin();
  return std::min_element(waiting_.begin(), waiting_.end(), [&](const Sequence* a, const Sequence* b) {
    return flows_.at(a->model).served < flows_.at(b->model).served;
  });
}

bool BatchScheduler::HasFree(int64_t pages) {
  if (pages_->free() < pages && reuses_prefixes_) prefixes_.MakeRoom(pages);
  return pages_->free() >= pages;
}

void BatchScheduler::FreePages(Sequence* sequence) {
  if (reuses_prefixes_ && sequence->is_sound) prefixes_.Put(sequence);
  sequence->remembered = 0;
  for (int32_t page : sequence->pages) pages_->Release(page);
  sequence->pages.clear();
}

void BatchScheduler::Remove(Sequence* sequence) {
  FreePages(sequence);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  const auto flow = flows_.find(sequence->model);
  if (--flow->second.sequences == 0) flows_.erase(flow);
}

void BatchScheduler::Preempt(Sequence* sequence, Plan* plan) {
  FreePages(sequence);
  sequence->computed = 0;
  std::erase(running_, sequence);
  std::erase_if(plan->items, [&](const Item& item) {
    if (item.sequence == sequence) flows_.at(sequence->model).served -= item.tokens;
    return item.sequence == sequence;
  });
  sequence->was_preempted = true;
  waiting_.push_front(sequence);
  plan->preempted.push_back(sequence);
}

void BatchScheduler::Charge(Sequence* sequence, int64_t tokens, Plan* plan) {
  plan->items.push_back({sequence, tokens});
  flows_.at(sequence->model).served += tokens;
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
    if (reuses_prefixes_ && is_new) prefixes_.Put(sequence);
    const int64_t tokens = std::min(sequence->remaining(), budget);
    if (tokens <= 0 || sequence->is_ending() || !Provide(sequence, tokens, /*may_preempt=*/true, &plan)) continue;
    Charge(sequence, tokens, &plan);
    budget -= tokens;
  }
  // Nobody is let in in a step that had to push somebody out.
  while (plan.preempted.empty() && !waiting_.empty() && budget > 0 && running() < max_sequences_) {
    if (!LetIn(&budget, &plan)) break;
  }
  return plan;
}

bool BatchScheduler::LetIn(int64_t* budget, Plan* plan) {
  const auto next = FindNext();
  Sequence* sequence = *next;
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
  waiting_.erase(next);
  sequence->was_preempted = false;
  running_.push_back(sequence);
  Charge(sequence, tokens, plan);
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
