#include "common/rendezvous.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"

namespace attune {
namespace {

struct Ask {
  int number = 0;
  int answered = 0;  // times
};

TEST(RendezvousTest, OneAloneIsDoneAtOnce) {
  std::vector<size_t> rounds;
  Rendezvous<Ask> rendezvous(
      [&](const std::vector<Ask*>& asks) {
        rounds.push_back(asks.size());
        ++asks[0]->answered;
      },
      absl::InfiniteDuration());
  Ask ask;
  rendezvous.Run(&ask);
  rendezvous.Run(&ask);
  EXPECT_EQ(ask.answered, 2);
  EXPECT_EQ(rounds, (std::vector<size_t>{1, 1}));
}

// Who comes while a round is under way is in the next one, together.
TEST(RendezvousTest, ThoseWhoCameMeanwhileGoTogether) {
  absl::Notification started, go_on;
  std::vector<size_t> rounds;
  Rendezvous<Ask> rendezvous(
      [&](const std::vector<Ask*>& asks) {
        rounds.push_back(asks.size());
        for (Ask* ask : asks) ++ask->answered;
        if (rounds.size() > 1) return;
        started.Notify();
        go_on.WaitForNotification();
      },
      absl::ZeroDuration());
  std::vector<Ask> asks(5);
  std::vector<std::thread> threads;
  threads.emplace_back([&] { rendezvous.Run(&asks[0]); });
  started.WaitForNotification();
  for (int i = 1; i < 5; ++i) threads.emplace_back([&, i] { rendezvous.Run(&asks[i]); });
  while (rendezvous.waiting() < 4) std::this_thread::yield();
  go_on.Notify();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(rounds, (std::vector<size_t>{1, 4}));
  for (const Ask& ask : asks) EXPECT_EQ(ask.answered, 1);
}

// Who came while a round was under way is waited for from then on.
TEST(RendezvousTest, ThoseWhoKeepComingMeet) {
  constexpr int kThreads = 4, kTimes = 20;
  absl::Notification started, go_on;
  std::vector<size_t> rounds;
  Rendezvous<Ask> rendezvous(
      [&](const std::vector<Ask*>& asks) {
        rounds.push_back(asks.size());
        for (Ask* ask : asks) ++ask->answered;
        if (rounds.size() > 1) return;
        started.Notify();
        go_on.WaitForNotification();
      },
      absl::InfiniteDuration());
  std::vector<Ask> asks(kThreads);
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (int time = 0; time <= kTimes; ++time) rendezvous.Run(&asks[0]);
  });
  started.WaitForNotification();
  for (int i = 1; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int time = 0; time < kTimes; ++time) rendezvous.Run(&asks[i]);
    });
  }
  while (rendezvous.waiting() < kThreads - 1) std::this_thread::yield();
  go_on.Notify();
  for (std::thread& thread : threads) thread.join();
  std::vector<size_t> expected(kTimes + 1, kThreads);
  expected[0] = 1;
  EXPECT_EQ(rounds, expected);
  for (int i = 1; i < kThreads; ++i) EXPECT_EQ(asks[i].answered, kTimes);
}

// Nobody waits for one who went away for longer than the linger.
TEST(RendezvousTest, GoesOnWithoutThoseWhoStayAway) {
  absl::Notification started, go_on;
  std::vector<size_t> rounds;
  Rendezvous<Ask> rendezvous(
      [&](const std::vector<Ask*>& asks) {
        rounds.push_back(asks.size());
        if (rounds.size() > 1) return;
        started.Notify();
        go_on.WaitForNotification();
      },
      absl::ZeroDuration());
  Ask a, b, c;
  std::thread first([&] { rendezvous.Run(&a); });
  started.WaitForNotification();
  std::thread second([&] { rendezvous.Run(&b); });
  std::thread third([&] { rendezvous.Run(&c); });
  while (rendezvous.waiting() < 2) std::this_thread::yield();
  go_on.Notify();
  first.join();
  second.join();
  third.join();
  rendezvous.Run(&a);  // alone, where two were expected
  EXPECT_EQ(rounds, (std::vector<size_t>{1, 2, 1}));
}

}  // namespace
}  // namespace attune
