#include "server/job_counts.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/database.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

class JobCountsTest : public ::testing::Test {
 protected:
  JobCountsTest() : database_(*Database::Open(":memory:")), store_(*JobStore::Open(database_.get(), &clock_)) {}

  void Create(const std::string& id, MethodSpec method) {
    Job job;
    job.spec.id = id;
    job.spec.base_model = "base";
    job.spec.dataset = "data";
    job.spec.method = std::move(method);
    ASSERT_TRUE(store_->Create(job, "").ok());
  }

  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> store_;
};

TEST_F(JobCountsTest, HasEveryStateAndMethodFromTheStart) {
  JobCounts counts(store_.get());
  JobCounts::Counts all = counts.Get();
  EXPECT_EQ(all.size(), 7 * 7);
  for (const auto& [key, count] : all) EXPECT_EQ(count, 0) << key.first << " " << key.second;
}

TEST_F(JobCountsTest, CountsAnewWhenSomethingChanged) {
  JobCounts counts(store_.get());
  Create("a", LoraSpec());
  Create("b", LoraSpec());
  Create("c", SoftPromptSpec());
  EXPECT_EQ((counts.Get().count({"QUEUED", "text_prompt"})), 1);
  EXPECT_EQ((counts.Get()[{"QUEUED", "lora"}]), 2);
  EXPECT_EQ((counts.Get()[{"QUEUED", "soft_prompt"}]), 1);
  ASSERT_TRUE(store_->Update("a", "", [](Job& job) {
                      job.state = JobState::kCancelled;
                      return absl::OkStatus();
                    }).ok());
  counts.Changed();
  EXPECT_EQ((counts.Get()[{"QUEUED", "lora"}]), 1);
  EXPECT_EQ((counts.Get()[{"CANCELLED", "lora"}]), 1);
}

TEST_F(JobCountsTest, CountsMoreThanAPage) {
  for (int i = 0; i < 1003; ++i) Create(absl::StrCat("job-", i), FullSpec());
  JobCounts counts(store_.get());
  EXPECT_EQ((counts.Get()[{"QUEUED", "full"}]), 1003);
}

}  // namespace
}  // namespace attune
