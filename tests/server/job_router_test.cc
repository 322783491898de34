#include "server/job_router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/evaluation/prompt_search/fake_control.h"
#include "tests/jobs/fake_runner.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

Job JobWith(const std::string& id, MethodSpec method) {
  Job job;
  job.spec.id = id;
  job.spec.method = std::move(method);
  return job;
}

TEST(JobRouterTest, TextPromptsAreSearchedForAndTheRestTrains) {
  FakeRunner training, search;
  training.SetEstimate(JobEstimate{.total_steps = 1});
  search.SetEstimate(JobEstimate{.total_steps = 2});
  JobRouter router(&training, &search);
  FakeControl control;
  const Job text = JobWith("text", TextPromptSpec()), lora = JobWith("lora", LoraSpec());
  ASSERT_TRUE(router.Run(text, control).ok());
  ASSERT_TRUE(router.Run(lora, control).ok());
  EXPECT_THAT(search.started(), ElementsAre("text"));
  EXPECT_THAT(training.started(), ElementsAre("lora"));
  EXPECT_EQ(router.Estimate(text.spec)->total_steps, 2);
  EXPECT_EQ(router.Estimate(lora.spec)->total_steps, 1);
  EXPECT_EQ(router.Estimate(JobWith("soft", SoftPromptSpec()).spec)->total_steps, 1);
}

}  // namespace
}  // namespace attune
