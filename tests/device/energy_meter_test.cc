#include "server/device/energy_meter.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

// A folder like the kernel's.
class RaplTest : public ::testing::Test {
 protected:
  void AddZone(const std::string& zone, const std::string& name, int64_t microjoules) {
    std::filesystem::create_directories(folder_.File(zone));
    folder_.Write(zone + "/name", name + "\n");
    folder_.Write(zone + "/max_energy_range_uj", "262143328850\n");
    Set(zone, microjoules);
  }
  void Set(const std::string& zone, int64_t microjoules) {
    folder_.Write(zone + "/energy_uj", absl::StrCat(microjoules, "\n"));
  }
  TempFolder folder_;
};

TEST_F(RaplTest, AddsUpThePackagesFromWhereTheyStood) {
  AddZone("intel-rapl:0", "package-0", 5'000'000);
  AddZone("intel-rapl:1", "package-1", 900'000'000);
  const std::unique_ptr<EnergyMeter> meter = OpenCpuEnergyMeter(folder_.path());
  ASSERT_NE(meter, nullptr);
  EXPECT_DOUBLE_EQ(*meter->Joules(), 0);
  Set("intel-rapl:0", 7'500'000);
  Set("intel-rapl:1", 901'000'000);
  EXPECT_DOUBLE_EQ(*meter->Joules(), 3.5);
  EXPECT_DOUBLE_EQ(*meter->Joules(), 3.5);
}

TEST_F(RaplTest, WhatIsNoPackageWouldCountTwice) {
  AddZone("intel-rapl:0", "package-0", 0);
  AddZone("intel-rapl:0:0", "core", 0);
  AddZone("intel-rapl:1", "psys", 0);
  AddZone("intel-rapl-mmio:0", "package-0", 0);
  const std::unique_ptr<EnergyMeter> meter = OpenCpuEnergyMeter(folder_.path());
  ASSERT_NE(meter, nullptr);
  for (const char* zone : {"intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl-mmio:0"}) Set(zone, 2'000'000);
  EXPECT_DOUBLE_EQ(*meter->Joules(), 2);
}

TEST_F(RaplTest, ACounterThatWrapsAroundGoesOn) {
  AddZone("intel-rapl:0", "package-0", 262'142'328'850);
  const std::unique_ptr<EnergyMeter> meter = OpenCpuEnergyMeter(folder_.path());
  ASSERT_NE(meter, nullptr);
  Set("intel-rapl:0", 500'000);
  EXPECT_DOUBLE_EQ(*meter->Joules(), 1.5);
}

TEST_F(RaplTest, AMachineThatDoesNotTellHasNoMeter) {
  EXPECT_EQ(OpenCpuEnergyMeter(folder_.path()), nullptr);
  EXPECT_EQ(OpenCpuEnergyMeter(folder_.File("nothing")), nullptr);
  AddZone("intel-rapl:0", "package-0", 0);
  AddZone("intel-rapl:1", "package-1", 0);
  std::filesystem::remove(folder_.File("intel-rapl:1/energy_uj"));  // as one that is root's alone
  EXPECT_EQ(OpenCpuEnergyMeter(folder_.path()), nullptr);
}

TEST_F(RaplTest, AReadingThatFailsTellsNothingAndLosesNothing) {
  AddZone("intel-rapl:0", "package-0", 0);
  const std::unique_ptr<EnergyMeter> meter = OpenCpuEnergyMeter(folder_.path());
  ASSERT_NE(meter, nullptr);
  std::filesystem::remove(folder_.File("intel-rapl:0/energy_uj"));
  EXPECT_EQ(meter->Joules(), std::nullopt);
  Set("intel-rapl:0", 4'000'000);
  EXPECT_DOUBLE_EQ(*meter->Joules(), 4);
}

TEST(GpuEnergyMeterTest, WithoutTheLibraryThereIsNoMeter) {
  EXPECT_EQ(OpenGpuEnergyMeter("0000:00:00.0", "libattune-no-such-thing.so.1"), nullptr);
}

TEST(GpuEnergyMeterTest, AnotherLibraryIsNotTakenForNvml) {
  EXPECT_EQ(OpenGpuEnergyMeter("0000:00:00.0", "libm.so.6"), nullptr);
}

// Of a GPU that the machine has, by the driver's own list.
TEST(GpuEnergyMeterTest, ARealGpuUsesEnergyEvenIdle) {
  std::error_code error;
  const std::filesystem::directory_iterator gpus("/proc/driver/nvidia/gpus", error);
  if (error || gpus == std::filesystem::directory_iterator()) GTEST_SKIP() << "there is no GPU";
  const std::unique_ptr<EnergyMeter> meter = OpenGpuEnergyMeter(gpus->path().filename().string());
  if (meter == nullptr) GTEST_SKIP() << "this GPU does not tell";
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  double joules = 0;
  while (joules == 0 && absl::Now() < deadline) joules = meter->Joules().value_or(0);
  EXPECT_GT(joules, 0);
  EXPECT_LT(joules, 10'000);  // a kilowatt
}

}  // namespace
}  // namespace attune
