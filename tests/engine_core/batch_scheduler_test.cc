#include "server/engine/batch_scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
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

// Requests that come, run, fork, are cancelled and end at random, of several tenants and
// priorities if `is_ranked`; some are groups, whose members wait for each other at every token.
class RandomTrace {
 public:
  RandomTrace(uint32_t seed, bool reuses_prefixes, bool is_ranked)
      : random_(seed),
        reuses_prefixes_(reuses_prefixes),
        is_ranked_(is_ranked),
        models_(1 + Below(3)),
        pages_(6 + Below(20), 1 + Below(8)),
        max_sequences_(1 + Below(6)),
        max_tokens_(1 + Below(40)),
        scheduler_(&pages_, max_sequences_, max_tokens_, reuses_prefixes) {}

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
    EXPECT_EQ(scheduler_.running() + scheduler_.waiting(), 0);
  }
  int64_t preempted() const { return preempted_; }
  int64_t forked() const { return forked_; }
  int64_t group_steps() const { return group_steps_; }
  int64_t reused() const { return scheduler_.prefix_hits(); }

 private:
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
    const Request& request = live_.at(const_cast<Sequence*>(&parent));
    live_[raw] = {std::move(child), request.length, next_++, true, request.group, 0};
    forked ? scheduler_.AddRunning(raw) : scheduler_.AddPushedOut(raw);
    return raw;
  }

  void Finish(Sequence* sequence) {
    scheduler_.Remove(sequence);
    EXPECT_TRUE(sequence->pages.empty());
    live_.erase(sequence);
  }

  void Fork() {
    for (auto& [parent, request] : live_) {
      if (request.group > 0 || parent->computed == 0 || parent->computed + 1 > request.length) continue;
      auto child = std::make_unique<Sequence>(Prompt(parent->computed + 1));
      child->model = parent->model;
      child->tenant = parent->tenant;
      std::copy(parent->tokens.begin(), parent->tokens.begin() + parent->computed, child->tokens.begin());
      std::vector<std::pair<int32_t, int32_t>> copies;
      if (!scheduler_.Fork(*parent, parent->computed, child.get(), &copies)) return;
      Sequence* raw = child.get();
      const int64_t length = std::max<int64_t>(request.length, raw->tokens.size());
      live_[raw] = {std::move(child), length, next_++, true};
      scheduler_.AddRunning(raw);
      ++forked_;
      return;
    }
  }

  void Step() {
    std::map<const Sequence*, int64_t> before;
    for (const auto& [sequence, request] : live_) before[sequence] = sequence->computed;
    const BatchScheduler::Plan plan = scheduler_.Next();
    preempted_ += plan.preempted.size();
    CheckPlan(plan, before);
    CheckPages();
    Compute(plan);
    Write(plan);
    std::vector<Sequence*> ended;
    for (const auto& item : plan.items) {
      if (item.sequence->remaining() > 0 || live_.at(item.sequence).group > 0) continue;
      if (static_cast<int64_t>(item.sequence->tokens.size()) >= live_.at(item.sequence).length) {
        ended.push_back(item.sequence);
      } else {
        item.sequence->tokens.push_back(1);
      }
    }
    for (Sequence* sequence : ended) Finish(sequence);
    StepGroups();
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
      if (before.at(item.sequence) > 0 || !reuses_prefixes_) {
        ASSERT_EQ(item.sequence->computed, before.at(item.sequence));
      }
      tokens += item.tokens;
    }
    ASSERT_LE(tokens, max_tokens_);
    for (const Sequence* sequence : plan.preempted) {
      ASSERT_EQ(sequence->computed, 0);
      ASSERT_TRUE(sequence->pages.empty());
      ASSERT_EQ(seen.count(sequence), 0u);
    }
    if (live_.empty()) return;
    ASSERT_FALSE(plan.items.empty()) << "nobody gets on";
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

  // What a page would hold: of which model, and its tokens with all before them.
  void Write(const BatchScheduler::Plan& plan) {
    for (const auto& item : plan.items) {
      const Sequence& s = *item.sequence;
      for (int64_t t = s.computed - item.tokens; t < s.computed; ++t) {
        const int32_t page = s.pages[t / pages_.page_tokens()];
        std::vector<int32_t>& held = held_[page];
        held.assign(s.tokens.begin(), s.tokens.begin() + t + 1);
        held.push_back(-1 - static_cast<int32_t>(s.model));
      }
    }
    // Everyone finds in their pages what they would have computed themselves.
    for (const auto& [sequence, request] : live_) {
      for (int64_t end = pages_.page_tokens(); end <= sequence->computed; end += pages_.page_tokens()) {
        std::vector<int32_t> expected(sequence->tokens.begin(), sequence->tokens.begin() + end);
        expected.push_back(-1 - static_cast<int32_t>(sequence->model));
        ASSERT_EQ(held_[sequence->pages[end / pages_.page_tokens() - 1]], expected) << "another's page";
      }
    }
  }

  // Each page in use belongs to sequences that hold the same tokens there; all others are free.
  void CheckPages() {
    std::map<int32_t, std::vector<const Sequence*>> users;
    for (const auto& [sequence, request] : live_) {
      for (int32_t page : sequence->pages) users[page].push_back(sequence);
    }
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
  const bool reuses_prefixes_, is_ranked_;
  const int64_t models_;
  std::map<int32_t, std::vector<int32_t>> held_;
  KvPages pages_;
  const int64_t max_sequences_, max_tokens_;
  BatchScheduler scheduler_;
  std::map<Sequence*, Request> live_;
  int64_t next_ = 0, preempted_ = 0, forked_ = 0, group_steps_ = 0;
};

TEST(BatchSchedulerTest, RandomTracesKeepAllPromises) {
  for (int way = 0; way < 4; ++way) {
    const bool reuses_prefixes = way % 2 == 1, is_ranked = way / 2 == 1;
    int64_t preempted = 0, forked = 0, reused = 0, group_steps = 0;
    for (uint32_t seed = 0; seed < 60 && !HasFatalFailure(); ++seed) {
      SCOPED_TRACE(seed);
      RandomTrace trace(seed, reuses_prefixes, is_ranked);
      trace.Run();
      group_steps += trace.group_steps();
      preempted += trace.preempted();
      forked += trace.forked();
      reused += trace.reused();
    }
    EXPECT_GT(preempted, 20);
    EXPECT_GT(forked, 20);
    EXPECT_GT(group_steps, 100);
    EXPECT_EQ(reused > 500, reuses_prefixes) << reused;
  }
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
