// What advices of a dead server have left behind goes, and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "server/advice/curve_probe.h"
#include "tests/jobs/manager_fixture.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

class LeftOversTest : public ManagerFixture {
 protected:
  LeftOversTest() {
    SetLogLevel(LogLevel::kError);
    datasets_ = *DatasetStore::Open(folder_.File("datasets"), database_.get(), &clock_);
    Start();
  }

  void AddDataset(const std::string& id, const std::string& advice) {
    DatasetStore::UploadOptions options;
    options.info.id = id;
    if (!advice.empty()) options.info.labels = {{"advice", advice}};
    auto upload = datasets_->BeginUpload(options);
    ASSERT_TRUE(upload.ok()) << upload.status();
    ASSERT_TRUE((*upload)->Append("{\"prompt\":\"a\",\"completion\":\"b\"}\n").ok());
    ASSERT_TRUE((*upload)->Commit().ok());
  }

  void AddJob(const std::string& id, const std::string& advice) {
    JobSpec spec = Spec(id);
    if (!advice.empty()) spec.labels = {{"advice", advice}};
    ASSERT_TRUE(manager_->Create(spec, "").ok());
  }

  std::set<std::string> DatasetIds() {
    const std::vector<DatasetInfo> all = datasets_->List(1000, INT64_MAX).value();
    std::set<std::string> ids;
    for (const DatasetInfo& info : all) ids.insert(info.id);
    return ids;
  }

  TempFolder folder_;
  std::unique_ptr<DatasetStore> datasets_;
};

TEST_F(LeftOversTest, OnlyWhatAnAdviceHasMadeGoes) {
  AddDataset("advice-01-32", "advice-01");
  AddDataset("mine", "");
  AddDataset("labelled", "advice-01");    // a user's own, with the label
  AddDataset("advice-notes", "advice");   // and with a name like it
  runner_.SetScript("advice-01-32", &FakeRunner::RunUntilStopped);
  AddJob("advice-01-32", "advice-01");
  Await("advice-01-32", JobState::kRunning);
  AddJob("job", "");
  AddJob("advice-01", "advice-01");  // the name of no part
  std::vector<std::string> deleted;
  CurveDeps deps;
  deps.jobs = manager_.get();
  deps.datasets = datasets_.get();
  deps.delete_model = [&](absl::string_view id) {
    deleted.emplace_back(id);
    return absl::NotFoundError("none");
  };
  RemoveLeftOvers(deps);
  EXPECT_THAT(DatasetIds(), UnorderedElementsAre("mine", "labelled", "advice-notes"));
  EXPECT_THAT(deleted, ElementsAre("advice-01-32"));
  EXPECT_TRUE(absl::IsNotFound(manager_->Get("advice-01-32").status()));
  EXPECT_TRUE(manager_->Get("job").ok());
  EXPECT_TRUE(manager_->Get("advice-01").ok());
}

TEST_F(LeftOversTest, TheOldestOfMoreThanAPageGoesToo) {
  AddJob("advice-02-8", "advice-02");
  for (int i = 0; i < 1005; ++i) AddJob(absl::StrCat("job-", i), "");
  CurveDeps deps;
  deps.jobs = manager_.get();
  deps.datasets = datasets_.get();
  deps.delete_model = [](absl::string_view) { return absl::NotFoundError("none"); };
  RemoveLeftOvers(deps);
  EXPECT_TRUE(absl::IsNotFound(manager_->Get("advice-02-8").status()));
  EXPECT_TRUE(manager_->Get("job-0").ok());
}

}  // namespace
}  // namespace attune
