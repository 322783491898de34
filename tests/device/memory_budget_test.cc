#include "server/device/memory_budget.h"

#include <atomic>
#include <thread>
#include <vector>

#include "common/error.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

TEST(MemoryBudgetTest, ReservationsCountUntilTheyEnd) {
  MemoryBudget budget(100);
  EXPECT_EQ(budget.available(), 100);
  {
    absl::StatusOr<MemoryBudget::Reservation> first = budget.Reserve(60, "a");
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(first->bytes(), 60);
    absl::StatusOr<MemoryBudget::Reservation> second = budget.Reserve(40, "b");
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(budget.used(), 100);
    EXPECT_EQ(budget.available(), 0);
    second->Release();
    second->Release();
    EXPECT_EQ(second->bytes(), 0);
    EXPECT_EQ(budget.used(), 60);
  }
  EXPECT_EQ(budget.used(), 0);
}

TEST(MemoryBudgetTest, TooMuchIsRefusedAndTakesNothing) {
  MemoryBudget budget(100);
  absl::StatusOr<MemoryBudget::Reservation> kept = budget.Reserve(30, "cache");
  absl::Status refused = budget.Reserve(71, "the job 'x'").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorDetails(refused).reason, "OUT_OF_MEMORY_BUDGET");
  EXPECT_NE(refused.message().find("the job 'x'"), absl::string_view::npos);
  EXPECT_EQ(budget.used(), 30);
  EXPECT_FALSE(budget.Reserve(INT64_MAX, "overflow").ok());
}

TEST(MemoryBudgetTest, MovingKeepsTheBytesOnce) {
  MemoryBudget budget(100);
  MemoryBudget::Reservation a = *budget.Reserve(10, "a");
  MemoryBudget::Reservation b = std::move(a);
  EXPECT_EQ(budget.used(), 10);
  MemoryBudget::Reservation c = *budget.Reserve(20, "c");
  c = std::move(b);  // gives back the 20
  EXPECT_EQ(budget.used(), 10);
  c.Release();
  EXPECT_EQ(budget.used(), 0);
}

TEST(MemoryBudgetTest, ThreadsNeverOverdraw) {
  MemoryBudget budget(50);
  std::atomic<int> granted = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        absl::StatusOr<MemoryBudget::Reservation> reservation = budget.Reserve(20, "thread");
        if (!reservation.ok()) continue;
        ++granted;
        EXPECT_LE(budget.used(), 50);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(granted, 0);
  EXPECT_EQ(budget.used(), 0);
}

}  // namespace
}  // namespace attune
