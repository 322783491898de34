#include "server/device/energy_share.h"

#include "gtest/gtest.h"
#include "tests/testing/fake_energy_meter.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

class EnergyShareTest : public ::testing::Test {
 protected:
  // So long at so many watts.
  void Pass(absl::Duration time, double watts) {
    clock_.Advance(time);
    joules_ += watts * absl::ToDoubleSeconds(time);
    meter_.Set(joules_);
  }

  ManualClock clock_;
  FakeEnergyMeter meter_;
  EnergyShare share_{&meter_, &clock_};
  double joules_ = 0;
};

TEST_F(EnergyShareTest, AJobAloneHasWhatIsUsedWhileItComputes) {
  EnergyShare::Part job(&share_);
  Pass(absl::Seconds(60), 50);  // idle: nobody's
  job.Enter();
  Pass(absl::Seconds(2), 300);
  job.Leave();
  Pass(absl::Seconds(60), 50);
  job.Enter();
  Pass(absl::Seconds(1), 300);
  job.Leave();
  EXPECT_DOUBLE_EQ(*job.Take(), 900);
  EXPECT_EQ(job.Take(), std::nullopt);  // nothing new
}

TEST_F(EnergyShareTest, AJobThatNeverPausesIsToldWhatItHasUsedSoFar) {
  EnergyShare::Part search(&share_);
  search.Enter();
  Pass(absl::Seconds(10), 200);
  EXPECT_DOUBLE_EQ(*search.Take(), 2000);
  Pass(absl::Seconds(5), 100);
  EXPECT_DOUBLE_EQ(*search.Take(), 500);
  search.Leave();
}

TEST_F(EnergyShareTest, JobsThatComputeAtOnceHaveEqualParts) {
  EnergyShare::Part first(&share_), second(&share_);
  first.Enter();
  Pass(absl::Seconds(1), 100);
  second.Enter();
  Pass(absl::Seconds(2), 300);
  first.Leave();
  Pass(absl::Seconds(1), 100);
  second.Leave();
  EXPECT_DOUBLE_EQ(*first.Take(), 400);
  EXPECT_DOUBLE_EQ(*second.Take(), 400);
}

TEST_F(EnergyShareTest, ShortStepsShareAReadingByTheirTime) {
  EnergyShare::Part first(&share_), second(&share_);
  const int before = meter_.readings();
  for (int step = 0; step < 250; ++step) {  // 4 ms a round: one with 1 ms, one with 2, none for 1
    first.Enter();
    Pass(absl::Milliseconds(1), 400);
    first.Leave();
    second.Enter();
    Pass(absl::Milliseconds(2), 400);
    second.Leave();
    Pass(absl::Milliseconds(1), 400);
  }
  first.Enter();
  first.Leave();
  EXPECT_EQ(meter_.readings() - before, 1);
  EXPECT_NEAR(*first.Take(), 100, 1e-9);
  EXPECT_NEAR(*second.Take(), 200, 1e-9);
}

TEST_F(EnergyShareTest, TheEndOfAJobReadsTheMeter) {
  EnergyShare::Part job(&share_);
  job.Enter();
  Pass(absl::Milliseconds(30), 200);
  job.Leave();
  EXPECT_EQ(job.Take(), std::nullopt);
  EXPECT_DOUBLE_EQ(*job.TakeAll(), 6);
  EXPECT_EQ(job.TakeAll(), std::nullopt);
}

TEST_F(EnergyShareTest, AJobThatIsGoneHasNoPartAnyMore) {
  EnergyShare::Part first(&share_);
  first.Enter();
  {
    EnergyShare::Part second(&share_);
    second.Enter();
    Pass(absl::Seconds(1), 100);
  }
  Pass(absl::Seconds(1), 100);
  EXPECT_DOUBLE_EQ(*first.TakeAll(), 150);
}

TEST_F(EnergyShareTest, AReadingThatFailsIsMadeUpByTheNext) {
  EnergyShare::Part job(&share_);
  job.Enter();
  clock_.Advance(absl::Seconds(1));
  meter_.Set(std::nullopt);
  job.Leave();
  EXPECT_EQ(job.TakeAll(), std::nullopt);
  job.Enter();
  clock_.Advance(absl::Seconds(1));
  meter_.Set(500);
  job.Leave();
  EXPECT_DOUBLE_EQ(*job.Take(), 500);
}

TEST_F(EnergyShareTest, WhereNothingTellsNothingIsTold) {
  EnergyShare silent(nullptr, &clock_);
  for (EnergyShare* share : {&silent, static_cast<EnergyShare*>(nullptr)}) {
    EnergyShare::Part job(share);
    job.Enter();
    Pass(absl::Seconds(1), 100);
    job.Leave();
    EXPECT_EQ(job.Take(), std::nullopt);
    EXPECT_EQ(job.TakeAll(), std::nullopt);
  }
}

TEST_F(EnergyShareTest, AClockThatIsSetBackTakesNothingAway) {
  EnergyShare::Part job(&share_);
  job.Enter();
  Pass(absl::Seconds(1), 100);
  clock_.Advance(-absl::Hours(1));
  job.Leave();
  job.Enter();
  clock_.Advance(absl::Hours(1));
  Pass(absl::Seconds(1), 100);
  job.Leave();
  EXPECT_DOUBLE_EQ(*job.TakeAll(), 200);
}

}  // namespace
}  // namespace attune
