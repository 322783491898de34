// Requests at random, by which the scheduler and its pages keep what they promise: no page is leaked or another's, nobody is lost or starves.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "server/engine/batch_scheduler.h"
#include "tests/engine_core/sequences.h"

namespace attune {
namespace {

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

}  // namespace
}  // namespace attune
