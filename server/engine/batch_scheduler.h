#ifndef ATTUNE_SERVER_ENGINE_BATCH_SCHEDULER_H_
#define ATTUNE_SERVER_ENGINE_BATCH_SCHEDULER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "server/engine/kv_pages.h"
#include "server/engine/prefix_cache.h"
#include "server/engine/sequence.h"
#include "server/engine/swap_space.h"

namespace attune {

// Decides what each step computes, over the pages of one KV cache; touches no tensor.
// Running sequences go first (one token each, or the next piece of their prompt), then
// waiting ones are let in: of the highest priority; of the tenant, and of its models the one, that
// has had the fewest tokens computed; in order of arrival. So many requests of one tenant or for
// one model do not keep others waiting (start-time fair queueing, Goyal et al. 1996; who was away
// for a while has no claim from then). When pages run out, the sequence of the lowest priority that
// was let in last gives its pages up and waits at the head of its priority's queue, to be computed
// anew: so the oldest of the highest priority always gets on, and nothing starves but what is
// outranked. One of a higher priority that finds no room takes it in the same way. Sequences may
// run and have nothing to compute, because they wait for others (beams for each other): if only
// such are left, those let in last make room for who was pushed out before. With a prefix cache,
// full pages stay known while there is room, and a sequence that is let in starts behind the
// longest beginning that is known; if that is all of its full pages, and what follows its
// tokens is known, too, it is let in with nothing to compute yet. With a swap space, the pages that a sequence gives up are copied
// there while there is room, if that is worth it, and what is no longer known when it is let in
// again is copied back. Not thread-safe.
class BatchScheduler {
 public:
  using KnowsEnd = std::function<bool(const Sequence&)>;
  // `pages` and `swap`, which may be null, must outlive this. knows_end: whether what follows a sequence's tokens is known, asked with a
  // prefix cache when it is to be let in for the first time; null: never.
  BatchScheduler(KvPages* pages, int64_t max_sequences, int64_t max_tokens, bool reuses_prefixes = false,
                 SwapSpace* swap = nullptr, KnowsEnd knows_end = nullptr)
      : pages_(pages),
        swap_(swap),
        knows_end_(std::move(knows_end)),
        max_sequences_(max_sequences),
        max_tokens_(max_tokens),
        prefixes_(pages),
        reuses_prefixes_(reuses_prefixes) {}

  struct Item {
    Sequence* sequence;
    int64_t tokens;  // to compute now; its pages suffice for them
  };
  // Pages to be copied to or from slots of the swap space, page i to or from slot i.
  struct Swap {
    Sequence* sequence;
    bool is_out;
    std::vector<int32_t> pages, slots;
  };
  struct Plan {
    std::vector<Item> items;
    std::vector<Sequence*> preempted;
    // Let in without an item: their next token is to be chosen from what is known to follow. The caller adds it before
    // the next plan.
    std::vector<Sequence*> begun;
    // To be done one after the other, behind the steps before and before the items: pages and slots go from one
    // sequence to another within a plan.
    std::vector<Swap> swaps;
  };

  // Lets a sequence wait. It must live until Remove. REQUIRES: it could ever fit
  // (PagesFor(all tokens it may get) <= total pages) and remaining() > 0.
  void Add(Sequence* sequence);
  // Lets a sequence in at once, past the queue: a fork of one that runs, which brings
  // its pages with it. May exceed max_sequences.
  void AddRunning(Sequence* sequence);
  // Lets a sequence for which Fork found no page wait, before others.
  void AddPushedOut(Sequence* sequence);
  // Takes a sequence out and lets its pages and slots go.
  void Remove(Sequence* sequence);

  // What to compute next; without items or begun sequences only if there is no sequence with remaining tokens that is not
  // held, or all wait for tokens in flight. The caller advances `computed` of each item when it has been done, or
  // is on its way, and then `in_flight` where that chooses a token.
  Plan Next();

  // Gives `child` the pages of the parent's first `tokens` tokens: full ones shared,
  // a partly filled one as a copy, which the caller makes (from, to). False, with no page
  // given, if there is no free one for the copy.
  bool Fork(const Sequence& parent, int64_t tokens, Sequence* child, std::vector<std::pair<int32_t, int32_t>>* copies);

  // Tokens of sequences that were let in, those left out that were copied back, and how many of these were found in
  // the cache.
  int64_t prefix_queries() const { return prefix_queries_; }
  int64_t prefix_hits() const { return prefix_hits_; }

  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }

 private:
  // Gets pages for `tokens` more; preempts others from the back of running_ if
  // `may_preempt`, and the sequence itself if it is the last.
  bool Provide(Sequence* sequence, int64_t tokens, bool may_preempt, Plan* plan);
  void Preempt(Sequence* sequence, Plan* plan);
  void FreePages(Sequence* sequence);
  void SwapOut(Sequence* sequence, Plan* plan);
  // Fills the sequence's pages behind the first `known` tokens from its slots, and lets these go.
  void SwapIn(Sequence* sequence, int64_t known, Plan* plan);
  void FreeSlots(Sequence* sequence);
  // A tenant's or a model's share of what was computed.
  struct Flow {
    int64_t sequences = 0;  // that wait or run
    int64_t served = 0;     // tokens, from where it came in
  };
  struct Tenant : Flow {
    std::map<uint64_t, Flow> models;
  };
  template <typename Flows>
  static typename Flows::mapped_type& EnterFlow(uint64_t key, Flows* flows);
  void Enter(Sequence* sequence);
  void Serve(const Sequence& sequence, int64_t tokens);
  // Into running_, in its order.
  void Run(Sequence* sequence);
  // Who is to be let in next. REQUIRES: somebody waits.
  Sequence* FindNext() const;
  // Whether a sequence may be let in, as far as their number goes; pushes out who is outranked.
  bool HasPlace(const Sequence& sequence, Plan* plan);
  // If nobody gets on, and somebody was pushed out: makes room for them.
  void Unblock(Plan* plan);

  // Whether so many pages are free, at the cost of idle ones if need be.
  bool HasFree(int64_t pages);
  // Plans tokens of a sequence, and books them.
  void Charge(Sequence* sequence, int64_t tokens, Plan* plan);
  // Lets the next that waits in, as far as `budget` goes; false if there is no room, for which
  // others are pushed out as far as it outranks them.
  bool LetIn(int64_t* budget, Plan* plan);

  KvPages* const pages_;
  SwapSpace* const swap_;
  const KnowsEnd knows_end_;
  const int64_t max_sequences_, max_tokens_;
  PrefixCache prefixes_;
  const bool reuses_prefixes_;
  int64_t prefix_queries_ = 0, prefix_hits_ = 0;
  std::map<uint64_t, Tenant> flows_;
  std::vector<Sequence*> waiting_;  // in order of arrival, those that were pushed out behind
  std::vector<Sequence*> running_;  // by priority, highest first, then ticket
  int64_t next_ticket_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_BATCH_SCHEDULER_H_
