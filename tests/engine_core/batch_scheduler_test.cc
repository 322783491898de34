#include "server/engine/batch_scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace attune {
namespace {

Sequence Prompt(int64_t tokens) {
  Sequence sequence;
  sequence.tokens.assign(tokens, 1);
  return sequence;
}

// Does what the plan says.
void Compute(const BatchScheduler::Plan& plan) {
  for (const auto& item : plan.items) item.sequence->computed += item.tokens;
}

std::vector<std::pair<Sequence*, int64_t>> Items(const BatchScheduler::Plan& plan) {
  std::vector<std::pair<Sequence*, int64_t>> items;
  for (const auto& item : plan.items) items.emplace_back(item.sequence, item.tokens);
  return items;
}

using ItemList = std::vector<std::pair<Sequence*, int64_t>>;

TEST(BatchSchedulerTest, LongPromptsAreReadInPieces) {
  KvPages pages(10, 4);
  BatchScheduler scheduler(&pages, 4, 8);
  Sequence sequence = Prompt(19);
  scheduler.Add(&sequence);
  for (int64_t piece : {8, 8, 3}) {
    auto plan = scheduler.Next();
    EXPECT_EQ(Items(plan), (ItemList{{&sequence, piece}}));
    Compute(plan);
  }
  EXPECT_TRUE(scheduler.Next().items.empty());
}

TEST(BatchSchedulerTest, RunningGoFirstThenWaitingInOrderOfArrival) {
  KvPages pages(20, 4);
  BatchScheduler scheduler(&pages, 4, 8);
  Sequence a = Prompt(3), b = Prompt(6), c = Prompt(2);
  scheduler.Add(&a);
  Compute(scheduler.Next());
  a.tokens.push_back(1);
  scheduler.Add(&b);
  scheduler.Add(&c);
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&a, 1}, {&b, 6}, {&c, 1}}));
}

TEST(BatchSchedulerTest, NoMoreRunThanAllowed) {
  KvPages pages(20, 4);
  BatchScheduler scheduler(&pages, 2, 100);
  Sequence a = Prompt(3), b = Prompt(3), c = Prompt(3);
  for (Sequence* sequence : {&a, &b, &c}) scheduler.Add(sequence);
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&a, 3}, {&b, 3}}));
  EXPECT_EQ(scheduler.running(), 2);
  EXPECT_EQ(scheduler.waiting(), 1);
  scheduler.Remove(&a);
  Compute({{{&b, 3}}, {}});
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&c, 3}}));
}

TEST(BatchSchedulerTest, TheLastOneInIsComputedAnewWhenPagesRunOut) {
  KvPages pages(4, 4);
  BatchScheduler scheduler(&pages, 4, 100);
  Sequence a = Prompt(8), b = Prompt(8), c = Prompt(1);
  scheduler.Add(&a);
  scheduler.Add(&b);
  Compute(scheduler.Next());
  ASSERT_EQ(pages.free(), 0);
  scheduler.Add(&c);
  a.tokens.push_back(1);
  b.tokens.push_back(1);
  auto plan = scheduler.Next();
  EXPECT_EQ(plan.preempted, std::vector<Sequence*>{&b});
  EXPECT_EQ(Items(plan), (ItemList{{&a, 1}}));
  EXPECT_EQ(b.computed, 0);
  EXPECT_TRUE(b.pages.empty());
  Compute(plan);
  scheduler.Remove(&a);
  // At the head of the queue, before `c`, and all nine tokens again.
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&b, 9}, {&c, 1}}));
}

TEST(BatchSchedulerTest, AForkSharesFullPagesAndCopiesThePartlyFilledOne) {
  KvPages pages(4, 4);
  BatchScheduler scheduler(&pages, 4, 100);
  Sequence parent = Prompt(10);
  scheduler.Add(&parent);
  Compute(scheduler.Next());
  Sequence child = Prompt(11);
  std::vector<std::pair<int32_t, int32_t>> copies;
  ASSERT_TRUE(scheduler.Fork(parent, 10, &child, &copies));
  scheduler.AddRunning(&child);
  EXPECT_EQ(child.computed, 10);
  ASSERT_EQ(child.pages.size(), 3u);
  EXPECT_EQ(child.pages[0], parent.pages[0]);
  EXPECT_EQ(child.pages[1], parent.pages[1]);
  EXPECT_EQ(copies, (std::vector<std::pair<int32_t, int32_t>>{{parent.pages[2], child.pages[2]}}));
  EXPECT_NE(child.pages[2], parent.pages[2]);
  EXPECT_EQ(pages.used(), 4);
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&child, 1}}));

  Sequence second = Prompt(11);
  copies.clear();
  EXPECT_FALSE(scheduler.Fork(parent, 10, &second, &copies)) << "no page is free";
  EXPECT_TRUE(second.pages.empty());
  EXPECT_TRUE(copies.empty());

  scheduler.Remove(&parent);
  EXPECT_EQ(pages.used(), 3);
  scheduler.Remove(&child);
  EXPECT_EQ(pages.used(), 0);
}

// Two sequences of two pages each that run in four pages; the second is pushed out next.
class SwapTest : public ::testing::Test {
 protected:
  // With `slots` slots of swap space.
  void Start(int64_t slots, bool reuses_prefixes = false) {
    left_ = slots;
    scheduler_ = std::make_unique<BatchScheduler>(&pages_, 4, 100, reuses_prefixes, &swap_);
    for (Sequence* sequence : {&a_, &b_}) scheduler_->Add(sequence);
    b_.tokens[0] = 2;
    Compute(scheduler_->Next());
    b_pages_ = b_.pages;
  }
  BatchScheduler::Plan PushOut() {
    a_.tokens.push_back(1);
    auto plan = scheduler_->Next();
    EXPECT_EQ(plan.preempted, std::vector<Sequence*>{&b_});
    Compute(plan);
    return plan;
  }

  int64_t left_ = 0;
  KvPages pages_{4, 4};
  SwapSpace swap_{[this] { return std::exchange(left_, 0); }};
  std::unique_ptr<BatchScheduler> scheduler_;
  Sequence a_ = Prompt(8), b_ = Prompt(7);
  std::vector<int32_t> b_pages_;
};

TEST_F(SwapTest, WhatIsPushedOutIsCopiedAndComesBack) {
  Start(2);
  b_.tokens.push_back(1);
  auto plan = PushOut();
  ASSERT_EQ(plan.swaps.size(), 1u);
  EXPECT_EQ(plan.swaps[0].sequence, &b_);
  EXPECT_TRUE(plan.swaps[0].is_out);
  EXPECT_EQ(plan.swaps[0].pages, b_pages_);
  const std::vector<int32_t> slots = plan.swaps[0].slots;
  EXPECT_EQ(slots.size(), 2u);
  EXPECT_EQ(swap_.used(), 2);
  EXPECT_EQ(b_.computed, 0);
  scheduler_->Remove(&a_);
  plan = scheduler_->Next();
  EXPECT_EQ(Items(plan), (ItemList{{&b_, 1}})) << "only the token that was not computed";
  EXPECT_EQ(b_.computed, 7);
  ASSERT_EQ(plan.swaps.size(), 1u);
  EXPECT_FALSE(plan.swaps[0].is_out);
  EXPECT_EQ(plan.swaps[0].slots, slots);
  EXPECT_EQ(plan.swaps[0].pages, b_.pages);
  EXPECT_EQ(swap_.used(), 0);
  Compute(plan);
  scheduler_->Remove(&b_);
  EXPECT_EQ(pages_.used(), 0);
}

TEST_F(SwapTest, WithoutRoomAllIsComputedAnew) {
  Start(1);
  EXPECT_TRUE(PushOut().swaps.empty());
  EXPECT_EQ(swap_.used(), 0);
  scheduler_->Remove(&a_);
  const auto plan = scheduler_->Next();
  EXPECT_TRUE(plan.swaps.empty());
  EXPECT_EQ(Items(plan), (ItemList{{&b_, 7}}));
}

TEST_F(SwapTest, ASequenceThatEndsWhileItWaitsLeavesItsSlots) {
  Start(2);
  PushOut();
  EXPECT_EQ(swap_.used(), 2);
  scheduler_->Remove(&b_);
  EXPECT_EQ(swap_.used(), 0);
}

// It has computed all its tokens, as a beam that waits for others: the last one is computed again.
TEST_F(SwapTest, SomethingIsLeftToCompute) {
  Start(2);
  PushOut();
  scheduler_->Remove(&a_);
  EXPECT_EQ(Items(scheduler_->Next()), (ItemList{{&b_, 1}}));
  EXPECT_EQ(b_.computed, 6);
}

TEST_F(SwapTest, OnlyTokensThatAreStillTheSameComeBack) {
  Start(2);
  PushOut();
  b_.swapped = 5;  // the others were exchanged
  scheduler_->Remove(&a_);
  const auto plan = scheduler_->Next();
  EXPECT_EQ(Items(plan), (ItemList{{&b_, 2}}));
  ASSERT_EQ(plan.swaps.size(), 1u);
  EXPECT_EQ(plan.swaps[0].pages.size(), 2u);
}

TEST_F(SwapTest, WhatThePrefixCacheStillHasIsNotCopiedBack) {
  Start(2, /*reuses_prefixes=*/true);
  const auto out = PushOut();
  ASSERT_EQ(out.swaps.size(), 1u);
  scheduler_->Remove(&a_);
  const auto plan = scheduler_->Next();
  EXPECT_EQ(Items(plan), (ItemList{{&b_, 1}}));
  EXPECT_EQ(b_.pages[0], b_pages_[0]) << "full, and known";
  ASSERT_EQ(plan.swaps.size(), 1u);
  EXPECT_EQ(plan.swaps[0].pages, std::vector<int32_t>{b_.pages[1]});
  EXPECT_EQ(plan.swaps[0].slots, std::vector<int32_t>{out.swaps[0].slots[1]});
  EXPECT_EQ(swap_.used(), 0);
}

// What a step on its way computes is copied behind it; the token it chooses is computed when it is let in.
TEST_F(SwapTest, ATokenInFlightIsComputedLater) {
  Start(2);
  ++b_.in_flight;
  EXPECT_EQ(PushOut().swaps.size(), 1u);
  scheduler_->Remove(&a_);
  EXPECT_TRUE(scheduler_->Next().items.empty());
  b_.tokens.push_back(1);
  --b_.in_flight;
  EXPECT_EQ(Items(scheduler_->Next()), (ItemList{{&b_, 1}}));
  EXPECT_EQ(b_.computed, 7);
}

TEST_F(SwapTest, WhatWillEndAnywayIsNotCopied) {
  Start(2);
  b_.most_tokens = 8;
  ++b_.in_flight;
  EXPECT_TRUE(PushOut().swaps.empty());
}

struct TraceOptions {
  bool reuses_prefixes, is_ranked;
  bool swaps = false, runs_ahead = false;
};

// Requests that come, run, fork, are cancelled and end at random, of several tenants and
// priorities if `is_ranked`; some are groups, whose members wait for each other at every token.
// With `runs_ahead`, others' tokens are known one step later than they are chosen.
class RandomTrace {
 public:
  RandomTrace(uint32_t seed, const TraceOptions& options)
      : random_(seed),
        reuses_prefixes_(options.reuses_prefixes),
        is_ranked_(options.is_ranked),
        runs_ahead_(options.runs_ahead),
        models_(1 + Below(3)),
        pages_(6 + Below(20), 1 + Below(8)),
        max_sequences_(1 + Below(6)),
        max_tokens_(1 + Below(40)),
        swap_pieces_(options.swaps ? 1 + Below(4) : 0),
        swap_([this] { return swap_pieces_-- > 0 ? kSwapPiece : 0; }),
        scheduler_(&pages_, max_sequences_, max_tokens_, options.reuses_prefixes, &swap_, [this](const Sequence& sequence) {
          return live_.at(const_cast<Sequence*>(&sequence)).group == 0 && Below(2) == 0;
        }) {}

  void Run() {
    for (int step = 0; step < 400 && !::testing::Test::HasFatalFailure(); ++step) {
      if (Below(3) == 0) Arrive();
      if (!live_.empty() && Below(12) == 0) {
        Finish(std::next(live_.begin(), Below(live_.size()))->first);
        StepGroups();  // the others may have waited for this one alone
      }
      if (Below(8) == 0) Fork();
      Step();
    }
    // Nothing new comes: all must end.
    int64_t left = 0;
    for (const auto& [sequence, request] : live_) left += request.length;
    for (int64_t step = 0; !live_.empty() && step < 100 * (left + 1); ++step) {
      Step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_TRUE(live_.empty()) << live_.size() << " sequences do not get on";
    EXPECT_EQ(pages_.used(), 0) << "pages leaked";
    EXPECT_EQ(swap_.used(), 0) << "slots leaked";
    EXPECT_EQ(scheduler_.running() + scheduler_.waiting(), 0);
  }
  int64_t preempted() const { return preempted_; }
  int64_t forked() const { return forked_; }
  int64_t group_steps() const { return group_steps_; }
  int64_t reused() const { return scheduler_.prefix_hits(); }
  int64_t begun() const { return begun_; }
  int64_t swapped_out() const { return swapped_out_; }
  int64_t swapped_in() const { return swapped_in_; }

 private:
  static constexpr int64_t kSwapPiece = 5;
  struct Request {
    std::unique_ptr<Sequence> sequence;
    int64_t length;  // at which it ends
    int64_t order;   // of arrival
    bool forked = false;
    int64_t group = 0;    // 0: none
    int64_t members = 0;  // that the leader is still to fork
  };

  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }

  void Arrive() {
    const int64_t most = pages_.total() * pages_.page_tokens();
    int64_t length = 2 + Below(most - 1);
    int64_t members = Below(4) == 0 ? 1 + Below(2) : 0;
    // All of a group must fit at once.
    if (members > 0) length = pages_.total() / (1 + members) * pages_.page_tokens();
    auto sequence = std::make_unique<Sequence>(Prompt(1 + Below(length - 1)));
    sequence->model = Below(models_);
    if (is_ranked_) {
      sequence->tenant = Below(2);
      sequence->priority = static_cast<int>(Below(3)) - 1;
    }
    // Many begin alike, few go on alike.
    for (size_t i = 0; i < sequence->tokens.size(); ++i) sequence->tokens[i] = Below(10) == 0 ? 2 : 1;
    if (members == 0) sequence->most_tokens = length;
    Sequence* raw = sequence.get();
    live_[raw] = {std::move(sequence), length, next_++, false, members > 0 ? next_ : 0, members};
    scheduler_.Add(raw);
  }

  // The group goes on once all its members have computed what they have.
  void StepGroups() {
    std::map<int64_t, std::vector<Sequence*>> groups;
    for (auto& [sequence, request] : live_) {
      if (request.group > 0) groups[request.group].push_back(sequence);
    }
    for (auto& [id, members] : groups) {
      const auto waits = [](const Sequence* s) { return s->remaining() == 0; };
      if (!std::all_of(members.begin(), members.end(), waits)) continue;
      const Request& leader = live_.at(members[0]);
      if (static_cast<int64_t>(members[0]->tokens.size()) >= leader.length) {
        for (Sequence* member : members) Finish(member);
        continue;
      }
      while (live_.at(members[0]).members > 0) {
        --live_.at(members[0]).members;
        members.push_back(ForkMember(*members[0]));
      }
      int32_t token = 1;
      for (Sequence* member : members) member->tokens.push_back(token++);
      ++group_steps_;
    }
  }

  Sequence* ForkMember(const Sequence& parent) {
    auto child = std::make_unique<Sequence>();
    child->tokens = parent.tokens;
    child->model = parent.model;
    Sequence* raw = child.get();
    std::vector<std::pair<int32_t, int32_t>> copies;
    const bool forked = scheduler_.Fork(parent, parent.computed, raw, &copies);
    for (const auto& [from, to] : copies) held_[to] = held_[from];
    const Request& request = live_.at(const_cast<Sequence*>(&parent));
    live_[raw] = {std::move(child), request.length, next_++, true, request.group, 0};
    forked ? scheduler_.AddRunning(raw) : scheduler_.AddPushedOut(raw);
    return raw;
  }

  void Finish(Sequence* sequence) {
    scheduler_.Remove(sequence);
    EXPECT_TRUE(sequence->pages.empty());
    EXPECT_TRUE(sequence->swap_slots.empty());
    std::erase(in_flight_, sequence);
    live_.erase(sequence);
  }

  void Fork() {
    for (auto& [parent, request] : live_) {
      if (request.group > 0 || parent->computed == 0 || parent->computed + 1 > request.length) continue;
      if (parent->in_flight > 0) continue;
      auto child = std::make_unique<Sequence>(Prompt(parent->computed + 1));
      child->model = parent->model;
      child->tenant = parent->tenant;
      std::copy(parent->tokens.begin(), parent->tokens.begin() + parent->computed, child->tokens.begin());
      std::vector<std::pair<int32_t, int32_t>> copies;
      if (!scheduler_.Fork(*parent, parent->computed, child.get(), &copies)) return;
      for (const auto& [from, to] : copies) held_[to] = held_[from];
      Sequence* raw = child.get();
      const int64_t length = std::max<int64_t>(request.length, raw->tokens.size());
      raw->most_tokens = length;
      live_[raw] = {std::move(child), length, next_++, true};
      scheduler_.AddRunning(raw);
      ++forked_;
      return;
    }
  }

  void Step() {
    std::map<const Sequence*, int64_t> before;
    for (const auto& [sequence, request] : live_) {
      before[sequence] =
          sequence->computed > 0 ? sequence->computed : std::min(sequence->swapped, sequence->known() - 1);
    }
    const BatchScheduler::Plan plan = scheduler_.Next();
    preempted_ += plan.preempted.size();
    CheckPlan(plan, before);
    CheckPages();
    Swap(plan);
    Compute(plan);
    Write(plan);
    // Of the step before, which is waited for only now.
    std::vector<Sequence*> known = std::exchange(in_flight_, {});
    for (Sequence* sequence : plan.begun) {
      ++sequence->in_flight;
      known.push_back(sequence);
      ++begun_;
    }
    for (const auto& item : plan.items) {
      if (item.sequence->remaining() > 0 || live_.at(item.sequence).group > 0) continue;
      ++item.sequence->in_flight;
      (runs_ahead_ ? in_flight_ : known).push_back(item.sequence);
    }
    for (Sequence* sequence : known) TakeToken(sequence);
    StepGroups();
  }

  // One that was chosen becomes known, or was the last.
  void TakeToken(Sequence* sequence) {
    --sequence->in_flight;
    if (static_cast<int64_t>(sequence->tokens.size()) >= live_.at(sequence).length) return Finish(sequence);
    sequence->tokens.push_back(1);
  }

  // Moves what pages and slots hold.
  void Swap(const BatchScheduler::Plan& plan) {
    for (const auto& swap : plan.swaps) {
      ASSERT_EQ(swap.pages.size(), swap.slots.size());
      (swap.is_out ? swapped_out_ : swapped_in_) += swap.pages.size();
      for (size_t i = 0; i < swap.pages.size(); ++i) {
        ASSERT_LT(swap.slots[i], swap_.total());
        if (swap.is_out) {
          slot_held_[swap.slots[i]] = held_[swap.pages[i]];
        } else {
          held_[swap.pages[i]] = slot_held_[swap.slots[i]];
        }
      }
    }
  }

  void CheckPlan(const BatchScheduler::Plan& plan, const std::map<const Sequence*, int64_t>& before) {
    int64_t tokens = 0;
    std::set<const Sequence*> seen;
    for (const auto& item : plan.items) {
      ASSERT_TRUE(seen.insert(item.sequence).second) << "planned twice";
      ASSERT_GT(item.tokens, 0);
      ASSERT_LE(item.tokens, item.sequence->remaining());
      ASSERT_GE(static_cast<int64_t>(item.sequence->pages.size()),
                pages_.PagesFor(item.sequence->computed + item.tokens));
      const int64_t had = before.at(item.sequence);
      ASSERT_GE(item.sequence->computed, had) << "what was computed is lost";
      // More only if it was let in, and the prefix cache had that.
      ASSERT_TRUE(item.sequence->computed == had || reuses_prefixes_);
      tokens += item.tokens;
    }
    ASSERT_LE(tokens, max_tokens_);
    for (const Sequence* sequence : plan.begun) {
      ASSERT_TRUE(seen.insert(sequence).second) << "planned twice";
      ASSERT_EQ(before.at(sequence), std::min<int64_t>(sequence->swapped, sequence->known() - 1)) << "it ran before";
      if (std::count(plan.preempted.begin(), plan.preempted.end(), sequence) > 0) continue;
      ASSERT_EQ(sequence->computed, sequence->known() / pages_.page_tokens() * pages_.page_tokens());
      ASSERT_GE(static_cast<int64_t>(sequence->pages.size()),
                pages_.PagesFor(std::min(sequence->computed + 1, sequence->most_tokens - 1))) << "no room to go on";
    }
    for (const Sequence* sequence : plan.preempted) {
      ASSERT_EQ(sequence->computed, 0);
      ASSERT_TRUE(sequence->pages.empty());
      const bool began = std::count(plan.begun.begin(), plan.begun.end(), sequence) > 0;
      ASSERT_EQ(seen.count(sequence), began ? 1u : 0u);
    }
    if (live_.empty() || !in_flight_.empty()) return;
    ASSERT_FALSE(plan.items.empty() && plan.begun.empty()) << "nobody gets on";
    // Of those that came by themselves, the oldest is always served.
    const Request* oldest = nullptr;
    bool any_fork = false;
    for (const auto& [sequence, request] : live_) {
      any_fork = any_fork || request.forked;
      if (oldest == nullptr || request.order < oldest->order) oldest = &request;
    }
    if (!any_fork && models_ == 1 && !is_ranked_ && oldest->group == 0) {
      ASSERT_EQ(seen.count(oldest->sequence.get()), 1u) << "the oldest does not get on";
    }
  }

  // What each place of a page would hold: of which model, and its token with all before it. Tokens that
  // are still to come are known here.
  std::vector<uint64_t> Contents(const Sequence& s) const {
    std::vector<uint64_t> contents;
    contents.reserve(s.computed);
    uint64_t value = s.model + 1;
    for (int64_t i = 0; i < s.computed; ++i) {
      const int64_t token = i < static_cast<int64_t>(s.tokens.size()) ? s.tokens[i] : 1;
      value = (value * 31 + static_cast<uint64_t>(token)) * 0x9e3779b97f4a7c15u;
      contents.push_back(value);
    }
    return contents;
  }

  void Write(const BatchScheduler::Plan& plan) {
    const int64_t size = pages_.page_tokens();
    for (const auto& item : plan.items) {
      const Sequence& s = *item.sequence;
      const std::vector<uint64_t> contents = Contents(s);
      for (int64_t t = s.computed - item.tokens; t < s.computed; ++t) {
        std::vector<uint64_t>& held = held_[s.pages[t / size]];
        held.resize(size);
        held[t % size] = contents[t];
      }
    }
    // Everyone finds in their pages what they would have computed themselves.
    for (const auto& [sequence, request] : live_) {
      const std::vector<uint64_t> contents = Contents(*sequence);
      for (int64_t t = 0; t < sequence->computed; ++t) {
        const std::vector<uint64_t>& held = held_[sequence->pages[t / size]];
        if (held.empty() || held[t % size] != contents[t]) FAIL() << "another's page";
      }
    }
  }

  // Each page in use belongs to sequences that hold the same tokens there; all others are free.
  void CheckPages() {
    std::map<int32_t, std::vector<const Sequence*>> users;
    std::set<int32_t> slots;
    for (const auto& [sequence, request] : live_) {
      for (int32_t page : sequence->pages) users[page].push_back(sequence);
      for (int32_t slot : sequence->swap_slots) ASSERT_TRUE(slots.insert(slot).second) << "a slot of two";
      ASSERT_TRUE(sequence->pages.empty() || sequence->swap_slots.empty()) << "one that runs needs no slots";
    }
    ASSERT_EQ(swap_.used(), static_cast<int64_t>(slots.size()));
    ASSERT_EQ(pages_.used(), static_cast<int64_t>(users.size()));
    for (const auto& [page, sequences] : users) {
      if (sequences.size() == 1) continue;
      // What is shared is full and computed, so that nobody writes into it.
      for (const Sequence* sequence : sequences) {
        const auto at = std::find(sequence->pages.begin(), sequence->pages.end(), page) - sequence->pages.begin();
        ASSERT_LE((at + 1) * pages_.page_tokens(), sequence->computed) << "a shared page is written to";
      }
    }
  }

  std::mt19937 random_;
  const bool reuses_prefixes_, is_ranked_, runs_ahead_;
  const int64_t models_;
  std::map<int32_t, std::vector<uint64_t>> held_, slot_held_;  // by page, by slot
  KvPages pages_;
  const int64_t max_sequences_, max_tokens_;
  int64_t swap_pieces_;
  SwapSpace swap_;
  BatchScheduler scheduler_;
  std::map<Sequence*, Request> live_;
  std::vector<Sequence*> in_flight_;  // whose tokens the last step has chosen
  int64_t next_ = 0, preempted_ = 0, forked_ = 0, group_steps_ = 0, begun_ = 0, swapped_out_ = 0, swapped_in_ = 0;
};

TEST(BatchSchedulerTest, RandomTracesKeepAllPromises) {
  for (int way = 0; way < 16; ++way) {
    const TraceOptions options = {way % 2 == 1, way / 2 % 2 == 1, way / 4 % 2 == 1, way / 8 == 1};
    int64_t preempted = 0, forked = 0, reused = 0, group_steps = 0, begun = 0, swapped_out = 0, swapped_in = 0;
    for (uint32_t seed = 0; seed < 20 && !HasFatalFailure(); ++seed) {
      SCOPED_TRACE(testing::Message() << "way " << way << ", seed " << seed);
      RandomTrace trace(seed, options);
      trace.Run();
      group_steps += trace.group_steps();
      preempted += trace.preempted();
      forked += trace.forked();
      reused += trace.reused();
      begun += trace.begun();
      swapped_out += trace.swapped_out();
      swapped_in += trace.swapped_in();
    }
    EXPECT_GT(preempted, 20);
    EXPECT_GT(forked, 20);
    EXPECT_GT(group_steps, 100);
    EXPECT_EQ(reused > 500, options.reuses_prefixes) << reused;
    EXPECT_EQ(begun > 100, options.reuses_prefixes) << begun;
    EXPECT_EQ(swapped_out > 100, options.swaps) << swapped_out;
    EXPECT_EQ(swapped_in > 100, options.swaps) << swapped_in;
  }
}

// A cache of two tokens a page, which has the first four of a prompt; another with the same prompt comes.
class KnownEndTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Sequence before = Prompt(5);
    scheduler_.Add(&before);
    Compute(scheduler_.Next());
    scheduler_.Remove(&before);
  }
  KvPages pages_{4, 2};
  Sequence same_ = Prompt(5);
  BatchScheduler scheduler_{&pages_, 8, 8, /*reuses_prefixes=*/true, nullptr,
                            [this](const Sequence& sequence) { return &sequence == &same_; }};
};

TEST_F(KnownEndTest, ItBeginsWithNothingToCompute) {
  scheduler_.Add(&same_);
  const BatchScheduler::Plan plan = scheduler_.Next();
  EXPECT_TRUE(plan.items.empty());
  EXPECT_EQ(plan.begun, std::vector<Sequence*>{&same_});
  EXPECT_EQ(same_.computed, 4);
  EXPECT_EQ(same_.reused, 4);
  EXPECT_EQ(pages_.used(), 3) << "and room for what it will compute";
  same_.tokens.push_back(7);
  EXPECT_EQ(Items(scheduler_.Next()), (ItemList{{&same_, 2}})) << "the prompt's rest and the new token";
  scheduler_.Remove(&same_);
}

TEST_F(KnownEndTest, WholePagesLeaveOnlyTheNewToken) {
  same_.tokens.resize(4);
  scheduler_.Add(&same_);
  EXPECT_EQ(scheduler_.Next().begun, std::vector<Sequence*>{&same_});
  same_.tokens.push_back(7);
  EXPECT_EQ(Items(scheduler_.Next()), (ItemList{{&same_, 1}}));
  scheduler_.Remove(&same_);
}

TEST_F(KnownEndTest, WithoutItsPagesItIsReadAsAlways) {
  Sequence other = Prompt(8);  // takes all pages
  other.tokens[0] = 9;
  scheduler_.Add(&other);
  Compute(scheduler_.Next());
  scheduler_.Remove(&other);
  scheduler_.Add(&same_);
  const BatchScheduler::Plan plan = scheduler_.Next();
  EXPECT_TRUE(plan.begun.empty());
  EXPECT_EQ(Items(plan), (ItemList{{&same_, 5}}));
  scheduler_.Remove(&same_);
}

TEST_F(KnownEndTest, ItWaitsUntilThereIsRoomToGoOn) {
  Sequence other = Prompt(4);
  other.tokens[0] = 9;
  scheduler_.Add(&other);
  Compute(scheduler_.Next());
  scheduler_.Add(&same_);
  EXPECT_TRUE(scheduler_.Next().begun.empty()) << "two pages are known, but none is left for its fifth token";
  EXPECT_TRUE(same_.pages.empty());
  scheduler_.Remove(&other);
  EXPECT_EQ(scheduler_.Next().begun.size(), 1u);
  scheduler_.Remove(&same_);
}

TEST_F(KnownEndTest, OnceLetInItIsComputedAsAlways) {
  same_.tokens.resize(4);
  scheduler_.Add(&same_);
  EXPECT_EQ(scheduler_.Next().begun.size(), 1u);
  same_.tokens.push_back(7);
  same_.priority = -1;
  Sequence urgent = Prompt(4);  // leaves the known pages
  urgent.tokens[0] = 9;
  urgent.priority = 1;
  scheduler_.Add(&urgent);
  BatchScheduler::Plan plan = scheduler_.Next();
  EXPECT_EQ(plan.preempted, std::vector<Sequence*>{&same_});
  Compute(plan);
  scheduler_.Remove(&urgent);
  plan = scheduler_.Next();
  EXPECT_TRUE(plan.begun.empty());
  EXPECT_EQ(Items(plan), (ItemList{{&same_, 1}}));
  scheduler_.Remove(&same_);
}

// Or who only asks for first tokens that are known would go before all others for ever.
TEST_F(KnownEndTest, ItsTokenCountsAsComputed) {
  same_.tenant = 1;
  Sequence other = Prompt(2), next = Prompt(5);
  other.tokens[0] = 9;
  other.tenant = 2;
  next.tenant = 1;
  KvPages pages(8, 2);
  BatchScheduler one(&pages, 1, 8, /*reuses_prefixes=*/true, nullptr, [](const Sequence&) { return true; });
  Sequence before = Prompt(5);
  one.Add(&before);
  Compute(one.Next());
  one.Remove(&before);
  for (Sequence* sequence : {&same_, &other, &next}) one.Add(sequence);
  EXPECT_EQ(one.Next().begun, std::vector<Sequence*>{&same_});
  one.Remove(&same_);
  EXPECT_EQ(Items(one.Next()), (ItemList{{&other, 2}})) << "whose turn it is";
  one.Remove(&other);
  one.Remove(&next);
}

TEST_F(KnownEndTest, TheLastTokenOfAllNeedsNoRoom) {
  Sequence other = Prompt(4);
  other.tokens[0] = 9;
  scheduler_.Add(&other);
  Compute(scheduler_.Next());
  same_.tokens.resize(4);
  same_.most_tokens = 5;
  scheduler_.Add(&same_);
  EXPECT_EQ(scheduler_.Next().begun.size(), 1u);
  scheduler_.Remove(&same_);
  scheduler_.Remove(&other);
}

// Many requests for one model, then some for others: these wait for one of the many at most.
TEST(BatchSchedulerTest, AModelWithManyRequestsDoesNotKeepOthersWaiting) {
  KvPages pages(200, 4);
  BatchScheduler scheduler(&pages, 2, 100);
  std::vector<std::unique_ptr<Sequence>> many;
  for (int i = 0; i < 20; ++i) {
    many.push_back(std::make_unique<Sequence>(Prompt(10)));
    many.back()->model = 1;
    scheduler.Add(many.back().get());
  }
  Compute(scheduler.Next());
  Sequence other = Prompt(10), third = Prompt(10);
  other.model = 2;
  third.model = 3;
  scheduler.Add(&other);
  scheduler.Add(&third);
  auto next = [&] {
    const auto plan = scheduler.Next();
    Compute(plan);
    return Items(plan);
  };
  // They came in level with the first model, whose requests came before.
  scheduler.Remove(many[0].get());
  EXPECT_EQ(next(), (ItemList{{many[2].get(), 10}}));
  // From then on it has had the most.
  scheduler.Remove(many[1].get());
  EXPECT_EQ(next(), (ItemList{{&other, 10}}));
  scheduler.Remove(many[2].get());
  EXPECT_EQ(next(), (ItemList{{&third, 10}}));
  scheduler.Remove(&other);
  scheduler.Remove(&third);
  EXPECT_EQ(next(), (ItemList{{many[3].get(), 10}, {many[4].get(), 10}})) << "in order of arrival";
  for (size_t i = 3; i < many.size(); ++i) scheduler.Remove(many[i].get());
}

// Tokens that two models get, each with more requests than there is room for.
TEST(BatchSchedulerTest, ModelsThatAlwaysAskGetEqualShares) {
  KvPages pages(400, 4);
  BatchScheduler scheduler(&pages, 3, 64);
  std::vector<std::unique_ptr<Sequence>> live;
  std::map<uint64_t, int64_t> got;
  auto ask = [&](uint64_t model, int64_t tokens) {
    live.push_back(std::make_unique<Sequence>(Prompt(tokens)));
    live.back()->model = model;
    scheduler.Add(live.back().get());
  };
  for (int i = 0; i < 30; ++i) ask(1, 8);
  for (int i = 0; i < 10; ++i) ask(2, 24);  // longer ones: fewer of them
  for (int step = 0; step < 300; ++step) {
    const auto plan = scheduler.Next();
    for (const auto& item : plan.items) {
      got[item.sequence->model] += item.tokens;
      item.sequence->computed += item.tokens;
      if (item.sequence->remaining() > 0) continue;
      ask(item.sequence->model, item.sequence->model == 1 ? 8 : 24);
      scheduler.Remove(item.sequence);
    }
  }
  EXPECT_NEAR(static_cast<double>(got[1]) / got[2], 1.0, 0.05);
  for (const auto& sequence : live) {
    if (sequence->remaining() > 0) scheduler.Remove(sequence.get());
  }
}

TEST(BatchSchedulerTest, AHigherPriorityGoesFirstAndTakesTheRoomOfALower) {
  KvPages pages(6, 4);
  BatchScheduler scheduler(&pages, 2, 100);
  Sequence low = Prompt(8), lower = Prompt(8), high = Prompt(12), middle = Prompt(4);
  lower.priority = -1;
  high.priority = 2;
  middle.priority = 1;
  for (Sequence* sequence : {&lower, &low}) scheduler.Add(sequence);
  Compute(scheduler.Next());
  scheduler.Add(&middle);
  scheduler.Add(&high);
  auto plan = scheduler.Next();
  EXPECT_EQ(Items(plan), (ItemList{{&high, 12}}));
  EXPECT_EQ(plan.preempted, std::vector<Sequence*>{&lower});
  Compute(plan);
  plan = scheduler.Next();
  EXPECT_EQ(Items(plan), (ItemList{{&middle, 4}}));
  EXPECT_EQ(plan.preempted, std::vector<Sequence*>{&low});
  Compute(plan);
  scheduler.Remove(&high);
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&low, 8}, {&lower, 8}}));
  for (Sequence* sequence : {&low, &lower, &middle}) scheduler.Remove(sequence);
  EXPECT_EQ(pages.used(), 0);
}

// One tenant asks through many models, the other through one: each gets half.
TEST(BatchSchedulerTest, TenantsShareWhateverModelsTheyUse) {
  KvPages pages(400, 4);
  BatchScheduler scheduler(&pages, 3, 64);
  std::vector<std::unique_ptr<Sequence>> live;
  std::map<uint64_t, int64_t> got;
  auto ask = [&](uint64_t tenant, uint64_t model) {
    live.push_back(std::make_unique<Sequence>(Prompt(8)));
    live.back()->tenant = tenant;
    live.back()->model = model;
    scheduler.Add(live.back().get());
  };
  for (int i = 0; i < 20; ++i) ask(1, i % 5);
  for (int i = 0; i < 20; ++i) ask(2, 9);
  for (int step = 0; step < 300; ++step) {
    const auto plan = scheduler.Next();
    for (const auto& item : plan.items) {
      got[item.sequence->tenant] += item.tokens;
      item.sequence->computed += item.tokens;
      if (item.sequence->remaining() > 0) continue;
      ask(item.sequence->tenant, item.sequence->model);
      scheduler.Remove(item.sequence);
    }
  }
  EXPECT_NEAR(static_cast<double>(got[1]) / got[2], 1.0, 0.05);
  for (const auto& sequence : live) {
    if (sequence->remaining() > 0) scheduler.Remove(sequence.get());
  }
}

TEST(BatchSchedulerTest, ATokenInFlightIsWaitedForNeitherTwiceNorInVain) {
  KvPages pages(3, 4);
  BatchScheduler scheduler(&pages, 4, 100);
  Sequence a = Prompt(3);
  a.most_tokens = 5;
  scheduler.Add(&a);
  Compute(scheduler.Next());
  ++a.in_flight;  // the fourth token, which the device has chosen
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&a, 1}}));
  ++a.computed;
  ++a.in_flight;  // and the fifth, the last one that there may be
  a.tokens.push_back(1);
  --a.in_flight;
  EXPECT_TRUE(scheduler.Next().items.empty());
  a.tokens.push_back(1);
  --a.in_flight;
  scheduler.Remove(&a);

  // Pushed out with a token on its way, it is let in again once the token is known.
  Sequence first = Prompt(4), second = Prompt(4);
  scheduler.Add(&first);
  scheduler.Add(&second);
  Compute(scheduler.Next());
  ++first.in_flight;
  ++second.in_flight;
  auto plan = scheduler.Next();  // a third page for the first, none for the second
  EXPECT_EQ(Items(plan), (ItemList{{&first, 1}}));
  EXPECT_EQ(plan.preempted, std::vector<Sequence*>{&second});
  ++first.computed;
  scheduler.Remove(&first);
  EXPECT_TRUE(scheduler.Next().items.empty());
  second.tokens.push_back(1);
  --second.in_flight;
  EXPECT_EQ(Items(scheduler.Next()), (ItemList{{&second, 5}}));
  scheduler.Remove(&second);
  EXPECT_EQ(pages.used(), 0);
}

}  // namespace
}  // namespace attune
