#include "server/data/dataset_store.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr int64_t kFirst = std::numeric_limits<int64_t>::max();
constexpr char kGood[] = "{\"prompt\":\"p\",\"completion\":\"c\"}\n{\"prompt\":\"q\",\"completion\":\"d\"}\n";

class DatasetStoreTest : public ::testing::Test {
 protected:
  DatasetStoreTest() {
    database_ = Database::Open(folder_.File("attune.db")).value();
    Reopen();
  }
  void Reopen() { store_ = DatasetStore::Open(folder_.File("datasets"), database_.get(), &clock_).value(); }

  absl::StatusOr<DatasetInfo> Upload(const std::string& bytes, DatasetStore::UploadOptions options = {}) {
    auto upload = store_->BeginUpload(std::move(options));
    if (!upload.ok()) return upload.status();
    for (size_t i = 0; i < bytes.size(); i += 7) {
      absl::Status status = (*upload)->Append(absl::string_view(bytes).substr(i, 7));
      if (!status.ok()) return status;
    }
    return (*upload)->Commit();
  }
  static DatasetStore::UploadOptions Id(const std::string& id) {
    DatasetStore::UploadOptions options;
    options.info.id = id;
    return options;
  }
  std::vector<std::string> Folders() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.File("datasets"))) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  TempFolder folder_;
  ManualClock clock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> store_;
};

std::string Reason(const absl::Status& status) { return GetErrorDetails(status).reason; }

TEST_F(DatasetStoreTest, KeepsWhatWasUploaded) {
  DatasetStore::UploadOptions options = Id("r8");
  options.info.display_name = "Reuters é";
  options.info.prompt_template = "Q: {{prompt}}";
  options.info.column_mapping = {{"a", "b"}};
  options.info.labels = {{"k", "v"}};
  absl::StatusOr<DatasetInfo> made = Upload(kGood, options);
  ASSERT_TRUE(made.ok()) << made.status();
  Reopen();
  DatasetInfo info = store_->Get("r8").value();
  EXPECT_EQ(info.id, "r8");
  EXPECT_EQ(info.display_name, "Reuters é");
  EXPECT_EQ(info.format, DatasetFormat::kJsonl);
  EXPECT_EQ(info.kind, DatasetKind::kPromptCompletion);
  EXPECT_EQ(info.prompt_template, "Q: {{prompt}}");
  EXPECT_EQ(info.completion_template, "{{completion}}");
  EXPECT_EQ(info.column_mapping, options.info.column_mapping);
  EXPECT_EQ(info.labels, options.info.labels);
  EXPECT_EQ(info.row_count, 2);
  EXPECT_EQ(info.skipped_row_count, 0);
  EXPECT_EQ(info.size_bytes, static_cast<int64_t>(sizeof kGood - 1));
  EXPECT_EQ(info.sha256.size(), 64u);
  EXPECT_THAT(info.columns, ElementsAre("completion", "prompt"));
  EXPECT_EQ(info.create_time, clock_.Now());
  EXPECT_EQ(info.position, made->position);
  std::vector<Row> rows = store_->ReadRows("r8").value();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].columns.at("prompt"), "q");
  EXPECT_TRUE(fs::exists(folder_.File("datasets/r8/rows.jsonl")));
}

TEST_F(DatasetStoreTest, ListsNewestFirstInPages) {
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(Upload(kGood, Id(id)).ok());
  std::vector<DatasetInfo> page = store_->List(2, kFirst).value();
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page[0].id, "c");
  EXPECT_EQ(page[1].id, "b");
  page = store_->List(2, page[1].position).value();
  ASSERT_EQ(page.size(), 1u);
  EXPECT_EQ(page[0].id, "a");
}

TEST_F(DatasetStoreTest, MakesUpIds) {
  DatasetStore::UploadOptions options;
  options.info.display_name = "My Data!";
  EXPECT_THAT(Upload(kGood, options).value().id, HasSubstr("my-data-"));
  EXPECT_THAT(Upload(kGood).value().id, HasSubstr("dataset-"));
}

TEST_F(DatasetStoreTest, RefusesBadOptions) {
  EXPECT_EQ(Reason(store_->BeginUpload(Id("Bad")).status()), "INVALID_ID");
  DatasetStore::UploadOptions options;
  options.info.prompt_template = "{{";
  absl::Status status = store_->BeginUpload(options).status();
  EXPECT_EQ(Reason(status), "BAD_TEMPLATE");
  EXPECT_EQ(GetErrorDetails(status).violations[0].field, "prompt_template");
  options = {};
  options.info.completion_template = std::string(70000, 'x');
  EXPECT_EQ(Reason(store_->BeginUpload(options).status()), "BAD_TEMPLATE");
  options = {};
  options.info.display_name = std::string(201, 'x');
  EXPECT_EQ(Reason(store_->BeginUpload(options).status()), "INVALID_FIELD");
  options = {};
  options.info.labels = {{"", "v"}};
  EXPECT_EQ(Reason(store_->BeginUpload(options).status()), "INVALID_FIELD");
  options.info.labels.clear();
  for (int i = 0; i < 33; ++i) options.info.labels[std::to_string(i)] = "v";
  EXPECT_EQ(Reason(store_->BeginUpload(options).status()), "INVALID_FIELD");
  options = {};
  options.sha256 = "abc";
  EXPECT_EQ(Reason(store_->BeginUpload(options).status()), "INVALID_FIELD");
  EXPECT_TRUE(Folders().empty());
}

TEST_F(DatasetStoreTest, ChecksTheChecksum) {
  DatasetStore::UploadOptions options = Id("a");
  options.sha256 = std::string(64, '0');
  absl::Status status = Upload(kGood, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Reason(status), "CHECKSUM_MISMATCH");
  EXPECT_TRUE(Folders().empty());
  std::string right = Upload(kGood, Id("b")).value().sha256;
  for (char& c : right) c = static_cast<char>(std::toupper(c));
  options.sha256 = right;
  EXPECT_TRUE(Upload(kGood, options).ok());
}

TEST_F(DatasetStoreTest, BadRowsAreListedOrSkipped) {
  std::string bytes = std::string(kGood) + "{}\nnope\n";
  absl::Status status = Upload(bytes, Id("a")).status();
  EXPECT_EQ(Reason(status), "BAD_ROWS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 3"));
  EXPECT_EQ(GetErrorDetails(status).metadata.at("bad_rows"), "2");
  ASSERT_EQ(GetErrorDetails(status).violations.size(), 2u);
  EXPECT_EQ(GetErrorDetails(status).violations[1].field, "line 4");
  EXPECT_EQ(Reason(store_->Get("a").status()), "DATASET_NOT_FOUND");
  EXPECT_TRUE(Folders().empty());

  DatasetStore::UploadOptions options = Id("a");
  options.skip_bad_rows = true;
  DatasetInfo info = Upload(bytes, options).value();
  EXPECT_EQ(info.row_count, 2);
  EXPECT_EQ(info.skipped_row_count, 2);
  EXPECT_EQ(store_->Get("a")->row_errors[0].line, 3);
  EXPECT_EQ(store_->ReadRows("a")->size(), 2u);
}

TEST_F(DatasetStoreTest, EmptyAndTooLargeUploadsLeaveNothing) {
  EXPECT_EQ(Reason(Upload("").status()), "EMPTY_DATASET");
  EXPECT_EQ(Reason(Upload("a,a\n").status()), "BAD_FORMAT");
  DatasetStore::UploadOptions options;
  options.max_bytes = 20;
  absl::Status status = Upload(kGood, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(status), "DATASET_TOO_LARGE");
  EXPECT_TRUE(Folders().empty());
}

TEST_F(DatasetStoreTest, TakenIdsAreRefusedEarlyAndLate) {
  auto slow = store_->BeginUpload(Id("a")).value();
  ASSERT_TRUE(slow->Append("{\"text\":\"other\"}").ok());
  ASSERT_TRUE(Upload(kGood, Id("a")).ok());
  EXPECT_EQ(Reason(store_->BeginUpload(Id("a")).status()), "DATASET_EXISTS");
  EXPECT_EQ(Reason(slow->Commit().status()), "DATASET_EXISTS");
  slow.reset();
  EXPECT_EQ(store_->Get("a")->row_count, 2);
  EXPECT_THAT(Folders(), ElementsAre("a"));
}

TEST_F(DatasetStoreTest, RequestIdsMakeUploadsIdempotent) {
  DatasetStore::UploadOptions options;
  options.request_id = "r-1";
  auto first = store_->BeginUpload(options).value(), second = store_->BeginUpload(options).value();
  ASSERT_TRUE(first->Append(kGood).ok());
  ASSERT_TRUE(second->Append(kGood).ok());
  DatasetInfo made = first->Commit().value();
  EXPECT_EQ(second->Commit()->id, made.id);         // both were under way
  EXPECT_EQ(Upload("ignored", options)->id, made.id);  // a repetition
  second.reset();
  EXPECT_EQ(store_->List(10, kFirst)->size(), 1u);
  EXPECT_THAT(Folders(), ElementsAre(made.id));
  ASSERT_TRUE(store_->Delete(made.id).ok());
  EXPECT_NE(Upload(kGood, options)->id, made.id);
}

TEST_F(DatasetStoreTest, AnUploadThatIsGivenUpLeavesNothing) {
  auto upload = store_->BeginUpload(Id("a")).value();
  ASSERT_TRUE(upload->Append(kGood).ok());
  EXPECT_EQ(Folders().size(), 1u);
  upload.reset();
  EXPECT_TRUE(Folders().empty());
}

TEST_F(DatasetStoreTest, DeletesFilesAndRow) {
  ASSERT_TRUE(Upload(kGood, Id("a")).ok());
  ASSERT_TRUE(store_->Delete("a").ok());
  EXPECT_TRUE(Folders().empty());
  EXPECT_EQ(Reason(store_->Get("a").status()), "DATASET_NOT_FOUND");
  EXPECT_EQ(Reason(store_->Delete("a")), "DATASET_NOT_FOUND");
  EXPECT_EQ(Reason(store_->ReadRows("a").status()), "DATASET_NOT_FOUND");
}

TEST_F(DatasetStoreTest, OpenRemovesWhatACrashLeft) {
  ASSERT_TRUE(Upload(kGood, Id("kept")).ok());
  auto unfinished = store_->BeginUpload(Id("a")).value();
  fs::create_directories(folder_.File("datasets/published-without-row"));
  EXPECT_EQ(Folders().size(), 3u);
  Reopen();
  EXPECT_THAT(Folders(), ElementsAre("kept"));
  EXPECT_EQ(store_->ReadRows("kept")->size(), 2u);
}

TEST_F(DatasetStoreTest, AFolderThatADeletionLeftDoesNotBlockItsId) {
  fs::create_directories(folder_.File("datasets/a"));
  EXPECT_TRUE(Upload(kGood, Id("a")).ok());
  EXPECT_EQ(store_->ReadRows("a")->size(), 2u);
}

TEST_F(DatasetStoreTest, RowsWithoutFilesAreReportedAndCanBeDeleted) {
  ASSERT_TRUE(Upload(kGood, Id("a")).ok());
  fs::remove_all(folder_.File("datasets/a"));
  Reopen();
  EXPECT_TRUE(store_->Get("a").ok());
  absl::Status status = store_->ReadRows("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Reason(status), "DATASET_FILE_MISSING");
  EXPECT_TRUE(store_->Delete("a").ok());
}

TEST_F(DatasetStoreTest, AFailedInsertLeavesNoFiles) {
  auto upload = store_->BeginUpload(Id("a")).value();
  ASSERT_TRUE(upload->Append(kGood).ok());
  ASSERT_TRUE(database_->Run("ALTER TABLE datasets RENAME TO hidden").ok());
  EXPECT_FALSE(upload->Commit().ok());
  upload.reset();
  EXPECT_TRUE(Folders().empty());
  ASSERT_TRUE(database_->Run("ALTER TABLE hidden RENAME TO datasets").ok());
  EXPECT_TRUE(Upload(kGood, Id("a")).ok());
}

}  // namespace
}  // namespace attune
