#include "server/engine/batch_scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "tests/engine_core/sequences.h"

namespace attune {
namespace {

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

// A cache of two tokens a page, which has the first four of a prompt; another with the same prompt comes.
class KnownEndTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Sequence before = Prompt(5);
    scheduler_.Add(&before);
    Compute(scheduler_.Next());
    scheduler_.Remove(&before);
  }
  // Of other pages.
  void Occupy(Sequence* other) {
    other->tokens[0] = 9;
    scheduler_.Add(other);
    Compute(scheduler_.Next());
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
  Occupy(&other);
  scheduler_.Remove(&other);
  scheduler_.Add(&same_);
  const BatchScheduler::Plan plan = scheduler_.Next();
  EXPECT_TRUE(plan.begun.empty());
  EXPECT_EQ(Items(plan), (ItemList{{&same_, 5}}));
  scheduler_.Remove(&same_);
}

TEST_F(KnownEndTest, ItWaitsUntilThereIsRoomToGoOn) {
  Sequence other = Prompt(4);
  Occupy(&other);
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
  Occupy(&other);
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
