#include "server/jobs/job.h"

#include <set>
#include <utility>

#include "gtest/gtest.h"

namespace attune {
namespace {

using enum JobState;

constexpr JobState kAll[] = {kQueued, kPreparing, kRunning, kPaused, kSucceeded, kFailed, kCancelled};

TEST(JobTest, LegalTransitionsAreTheProtos) {
  const std::set<std::pair<JobState, JobState>> legal = {
      {kQueued, kPreparing},    {kQueued, kPaused},      {kQueued, kCancelled},    {kQueued, kFailed},
      {kPreparing, kRunning},   {kPreparing, kQueued},   {kPreparing, kPaused},    {kPreparing, kFailed},
      {kPreparing, kCancelled}, {kRunning, kSucceeded},  {kRunning, kFailed},      {kRunning, kCancelled},
      {kRunning, kPaused},      {kRunning, kQueued},     {kPaused, kQueued},       {kPaused, kCancelled},
  };
  for (JobState from : kAll) {
    for (JobState to : kAll) {
      EXPECT_EQ(IsLegalTransition(from, to), legal.count({from, to}) > 0)
          << JobStateName(from) << " -> " << JobStateName(to);
    }
  }
}

TEST(JobTest, FinalStatesAreThoseWithoutAWayOut) {
  for (JobState from : kAll) {
    bool way_out = false;
    for (JobState to : kAll) way_out |= IsLegalTransition(from, to);
    EXPECT_EQ(IsFinal(from), !way_out) << JobStateName(from);
  }
}

TEST(JobTest, NamesAreTheProtos) {
  EXPECT_EQ(JobStateName(kPreparing), "PREPARING");
  EXPECT_EQ(TargetModuleName(TargetModule::kGateProj), "gate_proj");
  EXPECT_EQ(TargetModuleName(TargetModule::kLmHead), "lm_head");
  EXPECT_EQ(TargetModuleName(static_cast<TargetModule>(0)), "");
  EXPECT_EQ(MethodName(FullSpec()), "full");
  EXPECT_EQ(MethodName(PartialSpec()), "partial");
  EXPECT_EQ(MethodName(LoraSpec()), "lora");
  EXPECT_EQ(MethodName(SoftPromptSpec()), "soft_prompt");
  EXPECT_EQ(MethodName(PrefixSpec()), "prefix");
  EXPECT_EQ(MethodName(Ia3Spec()), "ia3");
  EXPECT_EQ(MethodName(TextPromptSpec()), "text_prompt");
}

}  // namespace
}  // namespace attune
