#include "server/device/arbiter.h"

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

constexpr WorkClass kGeneration = WorkClass::kGeneration;
constexpr WorkClass kTraining = WorkClass::kTraining;

class ArbiterTest : public ::testing::Test {
 protected:
  // No handover gap unless a test is about it.
  void Make(double training_share, absl::Duration gap = absl::ZeroDuration()) {
    arbiter_.emplace(&clock_, Arbiter::Options{.training_share = training_share, .handover_gap = gap});
  }

  void AwaitWaiting(WorkClass work, int count) {
    while (arbiter_->Waiting(work) < count) std::this_thread::yield();
  }

  // Queues callers (each holds the device for its class's time) while the device
  // is held, then lets them run. Returns the order of turns, e.g. "GGT".
  std::string Contend(int generation_turns, absl::Duration generation_time, int training_turns,
                      absl::Duration training_time) {
    std::string order;  // written only by the holder of the turn
    std::vector<std::thread> threads;
    Arbiter::Turn gate = arbiter_->Acquire(kGeneration);
    auto add = [&](WorkClass work, int count, absl::Duration time) {
      for (int i = 0; i < count; ++i) {
        threads.emplace_back([&order, this, work, time] {
          Arbiter::Turn turn = arbiter_->Acquire(work);
          order += work == kGeneration ? 'G' : 'T';
          clock_.Advance(time);
        });
      }
      AwaitWaiting(work, count);
    };
    add(kGeneration, generation_turns, generation_time);
    add(kTraining, training_turns, training_time);
    gate.Release();
    for (std::thread& thread : threads) thread.join();
    return order;
  }

  ManualClock clock_;
  std::optional<Arbiter> arbiter_;
};

TEST_F(ArbiterTest, AnIdleDeviceIsGrantedAtOnceAndTimeIsKept) {
  Make(0.5);
  for (WorkClass work : {kGeneration, kTraining}) {
    Arbiter::Turn turn = arbiter_->Acquire(work);
    clock_.Advance(absl::Seconds(2));
    EXPECT_EQ(arbiter_->Seconds(work), 0);
    turn.Release();
    turn.Release();
    EXPECT_EQ(arbiter_->Seconds(work), 2);
  }
}

TEST_F(ArbiterTest, OneTurnAtATime) {
  Make(0.5, absl::Microseconds(10));
  int unguarded = 0;  // a data race if two ever hold the device
  std::atomic<int> holders = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 300; ++i) {
        Arbiter::Turn turn = arbiter_->Acquire(t % 2 == 0 ? kGeneration : kTraining);
        EXPECT_EQ(++holders, 1);
        ++unguarded;
        clock_.Advance(absl::Microseconds(50));
        --holders;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(unguarded, 1800);
  EXPECT_NEAR(arbiter_->Seconds(kGeneration), 900 * 50e-6, 1e-9);
  EXPECT_NEAR(arbiter_->Seconds(kTraining), 900 * 50e-6, 1e-9);
}

// Training that holds the device looks up between its pieces.
TEST_F(ArbiterTest, TrainingPausesForGenerationThatIsToGoFirst) {
  Make(0.25);
  EXPECT_FALSE(Arbiter::Turn().ShouldPause());
  Arbiter::Turn training = arbiter_->Acquire(kTraining);
  EXPECT_FALSE(training.ShouldPause()) << "nobody else wants the device";
  std::thread first([&] {
    Arbiter::Turn turn = arbiter_->Acquire(kGeneration);
    AwaitWaiting(kTraining, 1);
    clock_.Advance(absl::Seconds(4));
  });
  AwaitWaiting(kGeneration, 1);
  EXPECT_TRUE(training.ShouldPause());
  training.Release();
  training = arbiter_->Acquire(kTraining);  // its share of the four seconds is one
  first.join();
  std::thread second([&] { arbiter_->Acquire(kGeneration).Release(); });
  AwaitWaiting(kGeneration, 1);
  EXPECT_FALSE(training.ShouldPause()) << "it is owed a second";
  clock_.Advance(absl::Seconds(2));
  EXPECT_TRUE(training.ShouldPause()) << "it has had more than that";
  training.Release();
  second.join();
}

// What nobody asked for is not late: the first turn of all, and the first after a while.
TEST_F(ArbiterTest, APatientTurnIsNotLateAfterAPause) {
  Make(0);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(arbiter_->Acquire(kGeneration, Sharing::kAlone, absl::Milliseconds(50)).lateness(), absl::ZeroDuration());
    clock_.Advance(absl::Minutes(10));
  }
}

TEST_F(ArbiterTest, PatientGenerationLetsTrainingGoOnUntilItsTime) {
  Make(0);  // no share of its own
  const auto step = [&](absl::Duration patience) { return arbiter_->Acquire(kGeneration, Sharing::kAlone, patience); };
  step(absl::ZeroDuration()).Release();
  Arbiter::Turn training = arbiter_->Acquire(kTraining);
  clock_.Advance(absl::Milliseconds(4));
  EXPECT_FALSE(training.ShouldPause());  // a piece takes about 4 ms
  absl::Duration lateness;
  std::thread generation([&] { lateness = step(absl::Milliseconds(20)).lateness(); });
  AwaitWaiting(kGeneration, 1);
  for (int at = 8; at <= 12; at += 4) {
    clock_.Advance(absl::Milliseconds(4));
    EXPECT_FALSE(training.ShouldPause()) << "at " << at << " ms: another piece ends in time";
  }
  clock_.Advance(absl::Milliseconds(4));
  EXPECT_TRUE(training.ShouldPause()) << "at 16 ms: another piece would not end before 20";
  clock_.Advance(absl::Milliseconds(7));
  training.Release();
  generation.join();
  EXPECT_EQ(lateness, absl::Milliseconds(3));

  // One that is not patient goes first, whatever was before.
  training = arbiter_->Acquire(kTraining);
  std::thread urgent([&] { EXPECT_EQ(step(absl::ZeroDuration()).lateness(), absl::ZeroDuration()); });
  AwaitWaiting(kGeneration, 1);
  EXPECT_TRUE(training.ShouldPause());
  training.Release();
  urgent.join();
}

// The device is not kept free for generation that has time.
TEST_F(ArbiterTest, TrainingGoesOnAtOnceBehindAPatientTurn) {
  for (bool is_patient : {true, false}) {
    const absl::Duration gap = absl::Milliseconds(100);
    Make(0, gap);
    Arbiter::Turn generation =
        arbiter_->Acquire(kGeneration, Sharing::kAlone, is_patient ? absl::Seconds(1) : absl::ZeroDuration());
    std::thread training([&] { arbiter_->Acquire(kTraining).Release(); });
    AwaitWaiting(kTraining, 1);
    generation.Release();
    const absl::Time start = absl::Now();
    while (is_patient && arbiter_->Turns(kTraining) == 0 && absl::Now() - start < absl::Seconds(5))
      std::this_thread::yield();
    for (int i = 0; !is_patient && i < 5000; ++i) std::this_thread::yield();  // time to be wrong in
    EXPECT_EQ(arbiter_->Turns(kTraining), is_patient ? 1 : 0);
    clock_.Advance(gap);
    training.join();
    EXPECT_EQ(arbiter_->Turns(kTraining), 1);
  }
}

// Who goes first changes with the time: whoever looked too early must look again.
TEST_F(ArbiterTest, NobodyIsForgottenWhilePatienceEnds) {
  Arbiter arbiter(&Clock::Real(), {.training_share = 0, .handover_gap = absl::ZeroDuration()});
  std::thread training([&] {
    for (int i = 0; i < 2000; ++i) {
      Arbiter::Turn turn = arbiter.Acquire(kTraining);
      if (turn.ShouldPause()) {
        turn.Release();
        turn = arbiter.Acquire(kTraining);
      }
    }
  });
  for (int i = 0; i < 2000; ++i) arbiter.Acquire(kGeneration, Sharing::kAlone, absl::Microseconds(i % 40)).Release();
  training.join();
}

TEST_F(ArbiterTest, GenerationIsKnownToBeActive) {
  Make(0.5);
  EXPECT_FALSE(arbiter_->IsGenerating());
  arbiter_->Acquire(kGeneration).Release();
  EXPECT_TRUE(arbiter_->IsGenerating());
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(arbiter_->IsGenerating());
}

TEST_F(ArbiterTest, SharedTurnsOverlapAndCountOnce) {
  Make(0.5);
  Arbiter::Turn first = arbiter_->Acquire(kTraining, Sharing::kShared);
  Arbiter::Turn second = arbiter_->Acquire(kTraining, Sharing::kShared);
  clock_.Advance(absl::Seconds(3));
  first.Release();
  EXPECT_EQ(arbiter_->Seconds(kTraining), 3);
  clock_.Advance(absl::Seconds(1));
  second.Release();
  EXPECT_EQ(arbiter_->Seconds(kTraining), 4);
}

TEST_F(ArbiterTest, NobodyJoinsATurnThatIsNotShared) {
  Make(0.5);
  for (const auto& [held, asked] :
       {std::pair{Sharing::kAlone, Sharing::kShared}, {Sharing::kShared, Sharing::kAlone}}) {
    Arbiter::Turn turn = arbiter_->Acquire(kTraining, held);
    std::atomic<bool> has_turn = false;
    std::thread other([&, asked = asked] {
      Arbiter::Turn mine = arbiter_->Acquire(kTraining, asked);
      has_turn = true;
    });
    AwaitWaiting(kTraining, 1);
    EXPECT_FALSE(has_turn);
    turn.Release();
    other.join();
    EXPECT_TRUE(has_turn);
  }
}

// Whoever shares must not keep the other class out by joining one after the other.
TEST_F(ArbiterTest, NobodyJoinsWhileTheOtherClassWaits) {
  Make(0.5);
  std::string order;
  Arbiter::Turn running = arbiter_->Acquire(kTraining, Sharing::kShared);
  std::thread generation([&] {
    Arbiter::Turn turn = arbiter_->Acquire(kGeneration);
    order += 'G';
  });
  AwaitWaiting(kGeneration, 1);
  std::thread training([&] {
    Arbiter::Turn turn = arbiter_->Acquire(kTraining, Sharing::kShared);
    order += 'T';
  });
  AwaitWaiting(kTraining, 1);
  running.Release();
  generation.join();
  training.join();
  EXPECT_EQ(order, "GT");
}

// A turn that others keep joining may be long: only what the other class waited is held against it.
TEST_F(ArbiterTest, ASharedTurnOwesOnlyTheTimeThatItWasWaitedFor) {
  Make(0.5);
  Arbiter::Turn running = arbiter_->Acquire(kTraining, Sharing::kShared);
  clock_.Advance(absl::Seconds(100));
  std::string order;
  std::vector<std::thread> threads;
  auto add = [&](WorkClass work) {
    threads.emplace_back([&, work] {
      Arbiter::Turn turn = arbiter_->Acquire(work);
      order += work == kGeneration ? 'G' : 'T';
      clock_.Advance(absl::Seconds(1));
    });
  };
  for (int i = 0; i < 3; ++i) add(kGeneration);
  AwaitWaiting(kGeneration, 3);
  add(kTraining);
  AwaitWaiting(kTraining, 1);
  clock_.Advance(absl::Milliseconds(100));
  running.Release();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, "GTGG");
}

// Several wait: all that share go together once the device is free.
TEST_F(ArbiterTest, WaitingSharersGoTogether) {
  Make(0.5);
  Arbiter::Turn gate = arbiter_->Acquire(kGeneration);
  std::atomic<int> holders = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      Arbiter::Turn turn = arbiter_->Acquire(kTraining, Sharing::kShared);
      ++holders;
      while (holders < 4) std::this_thread::yield();  // never ends unless all hold it at once
    });
  }
  AwaitWaiting(kTraining, 4);
  gate.Release();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(holders, 4);
}

TEST_F(ArbiterTest, GenerationGoesFirst) {
  Make(0.5);
  EXPECT_EQ(Contend(1, absl::Seconds(1), 1, absl::Seconds(1)), "GT");
}

TEST_F(ArbiterTest, EqualSharesAlternate) {
  Make(0.5);
  EXPECT_EQ(Contend(4, absl::Seconds(1), 4, absl::Seconds(1)), "GTGTGTGT");
}

TEST_F(ArbiterTest, SharesAreOfTimeNotOfTurns) {
  Make(0.5);
  // A training turn as long as three of generation.
  EXPECT_EQ(Contend(7, absl::Seconds(1), 2, absl::Seconds(3)), "GTGGGTGGG");
}

TEST_F(ArbiterTest, TrainingGetsItsShareOfContendedTime) {
  for (double share : {0.1, 0.25, 0.5, 0.8}) {
    Make(share);
    const std::string order = Contend(60, absl::Milliseconds(10), 60, absl::Milliseconds(10));
    int training = 0;
    int turns = 0;
    for (char c : order) {
      ++turns;
      training += c == 'T';
      if (training == 60 || turns - training == 60) break;  // no contention any more
      EXPECT_GE(training, share * turns - 1) << order;
      EXPECT_LE(training, share * turns + 1) << order;
    }
    EXPECT_GE(turns, 60);
  }
}

TEST_F(ArbiterTest, WithoutAShareTrainingGetsWhatIsLeft) {
  Make(0);
  EXPECT_EQ(Contend(5, absl::Seconds(1), 3, absl::Seconds(1)), "GGGGGTTT");
}

TEST_F(ArbiterTest, TimeAloneIsNotHeldAgainstAClass) {
  Make(0.5);
  for (int i = 0; i < 100; ++i) {
    Arbiter::Turn turn = arbiter_->Acquire(kTraining);
    clock_.Advance(absl::Seconds(10));
  }
  EXPECT_EQ(Contend(3, absl::Seconds(1), 3, absl::Seconds(1)), "GTGTGT");
}

TEST_F(ArbiterTest, TheDeviceIsKeptForTheClassThatIsOwed) {
  Make(0.5, absl::Hours(1));
  // Training has had a long turn while generation waited, so generation is owed.
  Arbiter::Turn training = arbiter_->Acquire(kTraining);
  std::optional<Arbiter::Turn> generation;
  std::thread first([&] { generation = arbiter_->Acquire(kGeneration); });
  AwaitWaiting(kGeneration, 1);
  clock_.Advance(absl::Seconds(1));
  training.Release();
  first.join();

  // Training asks again while generation works; each time generation pauses to
  // sample, training does not slip in, until generation had as much.
  std::atomic<bool> training_ran = false;
  std::thread second([&] {
    Arbiter::Turn turn = arbiter_->Acquire(kTraining);
    training_ran = true;
  });
  AwaitWaiting(kTraining, 1);
  for (int step = 0; step < 9; ++step) {
    clock_.Advance(absl::Milliseconds(100));
    generation->Release();
    EXPECT_EQ(arbiter_->Waiting(kTraining), 1);
    generation = arbiter_->Acquire(kGeneration);
    EXPECT_FALSE(training_ran);
  }
  clock_.Advance(absl::Milliseconds(200));  // now training is owed
  generation->Release();
  second.join();
  EXPECT_TRUE(training_ran);
}

TEST_F(ArbiterTest, AKeptDeviceIsGivenUpAfterTheGap) {
  // On the machine's clock: the gap passes by itself.
  Arbiter arbiter(&Clock::Real(), {.training_share = 0, .handover_gap = absl::Milliseconds(1)});
  std::optional<Arbiter::Turn> generation = arbiter.Acquire(kGeneration);
  std::thread training([&] { Arbiter::Turn turn = arbiter.Acquire(kTraining); });
  while (arbiter.Waiting(kTraining) < 1) std::this_thread::yield();
  generation.reset();
  training.join();
  EXPECT_EQ(arbiter.Waiting(kTraining), 0);
}

TEST_F(ArbiterTest, WithinAClassFirstComeFirstServed) {
  Make(0.5);
  Arbiter::Turn gate = arbiter_->Acquire(kTraining);
  std::string order;
  std::vector<std::thread> threads;
  for (char name : {'a', 'b', 'c', 'd'}) {
    threads.emplace_back([&, name] {
      Arbiter::Turn turn = arbiter_->Acquire(kGeneration);
      order += name;
    });
    AwaitWaiting(kGeneration, static_cast<int>(threads.size()));
  }
  gate.Release();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, "abcd");
}

TEST_F(ArbiterTest, ATurnCanBeMovedAndEndedElsewhere) {
  Make(0.5);
  Arbiter::Turn turn = arbiter_->Acquire(kTraining);
  std::thread([moved = std::move(turn)]() mutable { moved.Release(); }).join();
  turn.Release();  // moved from: nothing
  Arbiter::Turn next = arbiter_->Acquire(kGeneration);
  clock_.Advance(absl::Seconds(1));
  next = Arbiter::Turn();
  EXPECT_EQ(arbiter_->Seconds(kGeneration), 1);
}

TEST_F(ArbiterTest, AClockSetBackTakesNoTimeAway) {
  Make(0.5);
  Arbiter::Turn turn = arbiter_->Acquire(kTraining);
  clock_.Advance(-absl::Hours(1));
  turn.Release();
  EXPECT_EQ(arbiter_->Seconds(kTraining), 0);
}

TEST_F(ArbiterTest, HoldsTheMemoryBudget) {
  Arbiter arbiter(&clock_, {.memory_bytes = 10});
  EXPECT_EQ(arbiter.memory().total(), 10);
  EXPECT_TRUE(arbiter.memory().Reserve(10, "all").ok());
}

}  // namespace
}  // namespace attune
