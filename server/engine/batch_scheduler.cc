#include "server/engine/batch_scheduler.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

namespace attune {

// Finds or makes the flow; a new one is level with whoever is the furthest behind: no claim from before.
template <typename Flows>
typename Flows::mapped_type& BatchScheduler::EnterFlow(uint64_t key, Flows* flows) {
  auto& flow = (*flows)[key];
  if (flow.sequences++ > 0) return flow;
  bool is_alone = true;
  for (const auto& [other_key, other] : *flows) {
    if (other_key == key) continue;
    flow.served = is_alone ? other.served : std::min(flow.served, other.served);
    is_alone = false;
  }
  return flow;
}

void BatchScheduler::Enter(Sequence* sequence) {
  sequence->given = static_cast<int64_t>(sequence->tokens.size());
  EnterFlow(sequence->model, &EnterFlow(sequence->tenant, &flows_).models);
}

void BatchScheduler::Serve(const Sequence& sequence, int64_t tokens) {
  Tenant& tenant = flows_.at(sequence.tenant);
  tenant.served += tokens;
  tenant.models.at(sequence.model).served += tokens;
}

void BatchScheduler::Run(Sequence* sequence) {
  if (sequence->ticket < 0) sequence->ticket = next_ticket_++;
  const auto goes_first = [](const Sequence* a, const Sequence* b) {
    return a->priority != b->priority ? a->priority > b->priority : a->ticket < b->ticket;
  };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, goes_first), sequence);
}

void BatchScheduler::Add(Sequence* sequence) {
  Enter(sequence);
  waiting_.push_back(sequence);
}

void BatchScheduler::AddRunning(Sequence* sequence) {
  Enter(sequence);
  Run(sequence);
}

void BatchScheduler::AddPushedOut(Sequence* sequence) {
  sequence->was_preempted = true;
  Add(sequence);
}

Sequence* BatchScheduler::FindNext() const {
  const auto rank = [&](const Sequence* s) {
    if (s->was_preempted) return std::make_tuple(-s->priority, 0, s->ticket, int64_t{0});
    const Tenant& tenant = flows_.at(s->tenant);
    return std::make_tuple(-s->priority, 1, tenant.served, tenant.models.at(s->model).served);
  };
  return *std::min_element(waiting_.begin(), waiting_.end(),
                           [&](const Sequence* a, const Sequence* b) { return rank(a) < rank(b); });
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

void BatchScheduler::FreeSlots(Sequence* sequence) {
  if (!sequence->swap_slots.empty()) swap_->Release(sequence->swap_slots);
  sequence->swap_slots.clear();
  sequence->swapped = 0;
}

void BatchScheduler::SwapOut(Sequence* sequence, Plan* plan) {
  // What is to be computed in this plan is not in the pages yet, and guesses are dropped.
  const int64_t tokens = std::min(sequence->computed, sequence->known());
  if (!swap_ || !sequence->is_sound || sequence->is_ending()) return;
  if (!IsWorthSwapping(tokens, pages_->page_tokens())) return;
  const int64_t count = pages_->PagesFor(tokens);
  std::optional<std::vector<int32_t>> slots = swap_->Allocate(count);
  if (!slots) return;
  plan->swaps.push_back({sequence, true, {sequence->pages.begin(), sequence->pages.begin() + count}, *slots});
  sequence->swap_slots = *std::move(slots);
  sequence->swapped = tokens;
}

void BatchScheduler::SwapIn(Sequence* sequence, int64_t known, Plan* plan) {
  const int64_t first = known / pages_->page_tokens(), last = pages_->PagesFor(sequence->computed);
  if (first < last) {
    const auto part = [&](const std::vector<int32_t>& all) {
      return std::vector<int32_t>(all.begin() + first, all.begin() + last);
    };
    plan->swaps.push_back({sequence, false, part(sequence->pages), part(sequence->swap_slots)});
  }
  FreeSlots(sequence);
}

void BatchScheduler::Remove(Sequence* sequence) {
  FreePages(sequence);
  FreeSlots(sequence);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  const auto tenant = flows_.find(sequence->tenant);
  const auto model = tenant->second.models.find(sequence->model);
  if (--model->second.sequences == 0) tenant->second.models.erase(model);
  if (--tenant->second.sequences == 0) flows_.erase(tenant);
}

void BatchScheduler::Preempt(Sequence* sequence, Plan* plan) {
  SwapOut(sequence, plan);
  FreePages(sequence);
  sequence->computed = 0;
  sequence->DropDrafts();
  sequence->is_held = false;
  std::erase(running_, sequence);
  std::erase_if(plan->items, [&](const Item& item) {
    if (item.sequence == sequence) Serve(*sequence, -item.tokens);
    return item.sequence == sequence;
  });
  sequence->was_preempted = true;
  waiting_.push_back(sequence);
  plan->preempted.push_back(sequence);
}

void BatchScheduler::Charge(Sequence* sequence, int64_t tokens, Plan* plan) {
  plan->items.push_back({sequence, tokens});
  Serve(*sequence, tokens);
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
    if (tokens <= 0 || sequence->is_held || sequence->is_ending()) continue;
    if (!Provide(sequence, tokens, /*may_preempt=*/true, &plan)) continue;
    Charge(sequence, tokens, &plan);
    budget -= tokens;
  }
  // Nobody is let in in a step in which the running ones had to push somebody out.
  while (plan.preempted.empty() && !waiting_.empty() && budget > 0) {
    if (!LetIn(&budget, &plan)) break;
  }
  if (plan.items.empty() && plan.begun.empty()) Unblock(&plan);
  return plan;
}

bool BatchScheduler::HasPlace(const Sequence& sequence, Plan* plan) {
  // Who was pushed out has had a place, which forks may have taken since.
  if (sequence.was_preempted) return true;
  while (running() >= max_sequences_ && running_.back()->priority < sequence.priority) Preempt(running_.back(), plan);
  return running() < max_sequences_;
}

void BatchScheduler::Unblock(Plan* plan) {
  for (const Sequence* sequence : running_) {
    if (sequence->in_flight > 0) return;  // gets on by itself
  }
  int64_t budget = max_tokens_;
  while (!waiting_.empty() && plan->items.empty()) {
    const Sequence* next = FindNext();
    // What could not be let in because somebody was pushed out before may be now.
    if (next->in_flight > 0 || LetIn(&budget, plan) || !next->was_preempted) return;
    if (running_.empty() || running_.back()->ticket <= next->ticket) return;
    Preempt(running_.back(), plan);
  }
}

bool BatchScheduler::LetIn(int64_t* budget, Plan* plan) {
  Sequence* sequence = FindNext();
  // Pushed out with a token on its way, which comes first.
  if (sequence->in_flight > 0 || !HasPlace(*sequence, plan)) return false;
  int64_t known = 0;
  const bool is_end_known = reuses_prefixes_ && knows_end_ && sequence->ticket < 0 && knows_end_(*sequence);
  // Something is left to compute, whatever is known, unless that is what follows.
  const int64_t most = sequence->known() - (is_end_known ? 0 : 1);
  if (reuses_prefixes_) known = prefixes_.Take(sequence, std::min(sequence->most_reused, most));
  sequence->computed = std::max(known, std::min(sequence->swapped, most));
  const int64_t restored = sequence->computed - known;
  const bool begins = is_end_known && known / pages_->page_tokens() == sequence->known() / pages_->page_tokens();
  // One that begins is not let in without room for what it will compute first.
  const int64_t first = begins ? std::min(sequence->known() + 1, sequence->most_tokens - 1) - known : sequence->remaining();
  const int64_t tokens = std::min(first, *budget);
  while (!Provide(sequence, tokens, /*may_preempt=*/false, plan)) {
    if (!running_.empty() && running_.back()->priority < sequence->priority) {
      Preempt(running_.back(), plan);
      continue;
    }
    sequence->computed = known;
    FreePages(sequence);
    sequence->computed = 0;
    return false;
  }
  SwapIn(sequence, known, plan);
  prefix_queries_ += static_cast<int64_t>(sequence->tokens.size()) - restored;
  prefix_hits_ += known;
  if (sequence->reused < 0) sequence->reused = known;
  std::erase(waiting_, sequence);
  sequence->was_preempted = false;
  Run(sequence);
  if (begins) {
    Serve(*sequence, 1);  // the token, or who asks for no more would have all for nothing
    plan->begun.push_back(sequence);
    return true;
  }
  Charge(sequence, tokens, plan);
  *budget -= tokens;
  return true;
}

bool BatchScheduler::Fork(const Sequence& parent, int64_t tokens, Sequence* child,
                          std::vector<std::pair<int32_t, int32_t>>* copies) {
  child->ticket = parent.ticket;
  child->priority = parent.priority;
  child->tenant = parent.tenant;
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
