#include "server/rpc/cancel_watcher.h"

#include <atomic>
#include <memory>

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace attune {
namespace {

TEST(CancelWatcherTest, CallsOnceWhenCancelled) {
  CancelWatcher watcher(absl::Milliseconds(1));
  std::atomic<bool> cancelled{false};
  std::atomic<int> calls{0};
  absl::Notification called;
  CancelWatcher::Watch watch(
      &watcher, [&] { return cancelled.load(); },
      [&] {
        if (++calls == 1) called.Notify();
      });
  absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(calls, 0);
  cancelled = true;
  called.WaitForNotification();
  absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(calls, 1);
}

TEST(CancelWatcherTest, NothingRunsAfterAWatchEnds) {
  CancelWatcher watcher(absl::Milliseconds(1));
  std::atomic<int> asked{0};
  auto watch = std::make_unique<CancelWatcher::Watch>(
      &watcher, [&] { return ++asked < 0; }, [] {});
  while (asked == 0) absl::SleepFor(absl::Milliseconds(1));
  watch.reset();
  const int before = asked;
  absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(asked, before);
}

TEST(CancelWatcherTest, WatchesSeveralAndWakesFromIdleness) {
  CancelWatcher watcher(absl::Milliseconds(1));
  for (int round = 0; round < 3; ++round) {
    absl::Notification first, second;
    CancelWatcher::Watch a(&watcher, [] { return true; }, [&] { first.Notify(); });
    CancelWatcher::Watch b(&watcher, [] { return true; }, [&] { second.Notify(); });
    first.WaitForNotification();
    second.WaitForNotification();
  }
}

}  // namespace
}  // namespace attune
