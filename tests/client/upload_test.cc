// Uploads: chunks, checksum, retries.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "client/attune.h"
#include "common/error.h"
#include "common/file.h"
#include "tests/testing/fake_services.h"

namespace attune {
namespace {

using testing::FakeServer;
using testing::Unavailable;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class UploadTest : public ::testing::Test {
 protected:
  UploadTest() {
    ClientOptions options;
    options.initial_backoff = absl::Milliseconds(2);
    client_ = Client::Connect(server_.target(), options).value();
    header_.set_dataset_id("d");
  }

  // Bytes without a short period, so that a chunk out of place is noticed.
  static std::string Bytes(size_t size) {
    std::string bytes(size, '\0');
    uint32_t x = 1;
    for (char& c : bytes) c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
    return bytes;
  }
  static std::string HashOf(const std::string& bytes) {
    Sha256 hash;
    hash.Update(bytes);
    return hash.Finish();
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
  v1::UploadDatasetRequest::Header header_;
};

TEST_F(UploadTest, SendsChunksWithTheirChecksum) {
  const size_t chunk = 512 << 10;
  const std::string bytes = Bytes(2 * chunk + 5);
  std::vector<int64_t> sent;
  auto dataset = client_->UploadDatasetBytes(header_, bytes, [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, static_cast<int64_t>(bytes.size()));
    sent.push_back(done);
  });
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->sha256(), HashOf(bytes));
  EXPECT_EQ(server_.state().uploaded, bytes);
  EXPECT_THAT(server_.state().upload_chunks, ElementsAre(ElementsAre(chunk, chunk, 5)));
  EXPECT_THAT(sent, ElementsAre(chunk, 2 * chunk, bytes.size()));
}

TEST_F(UploadTest, FileGoesAsItIs) {
  const std::string path = ::testing::TempDir() + "attune_upload_test.bin";
  const std::string bytes = Bytes(600'000);
  ASSERT_TRUE(WriteFileDurably(path, bytes).ok());
  auto dataset = client_->UploadDatasetFile(header_, path);
  std::remove(path.c_str());
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(server_.state().uploaded, bytes);
  EXPECT_EQ(dataset->sha256(), HashOf(bytes));
}

TEST_F(UploadTest, EmptyUploadHasNoChunk) {
  auto dataset = client_->UploadDatasetBytes(header_, "");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(server_.state().upload_chunks, ElementsAre(IsEmpty()));
}

TEST_F(UploadTest, RetrySendsAllOfItAgainUnderOneRequestId) {
  const std::string bytes = Bytes(700'000);
  server_.state().FailNext("UploadDataset", 2, Unavailable());
  auto dataset = client_->UploadDatasetBytes(header_, bytes);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(server_.state().uploaded, bytes);
  auto id = [&](int i) {
    return server_.state().RequestOf<v1::UploadDatasetRequest::Header>("UploadDataset", i).request_id();
  };
  EXPECT_THAT(id(0), SizeIs(32));
  EXPECT_EQ(id(2), id(0));
}

TEST_F(UploadTest, GivenChecksumIsKept) {
  header_.set_sha256("0000");
  auto dataset = client_->UploadDatasetBytes(header_, "abc");
  EXPECT_EQ(GetErrorDetails(dataset.status()).reason, "CHECKSUM_MISMATCH");
}

TEST_F(UploadTest, EarlyRefusalOfTheServerComesThrough) {
  grpc::Status refusal = ToGrpcStatus(MakeError(absl::StatusCode::kInvalidArgument, "BAD_ROWS", "2 bad rows", {},
                                                {{"line 3", "no label"}, {"line 7", "no text"}}));
  server_.state().FailNext("UploadDataset", 1, refusal);
  auto dataset = client_->UploadDatasetBytes(header_, Bytes(20 << 20));
  EXPECT_TRUE(absl::IsInvalidArgument(dataset.status())) << dataset.status();
  EXPECT_THAT(GetErrorDetails(dataset.status()).violations, SizeIs(2));
}

TEST_F(UploadTest, MissingFileAndDirectoryAreErrors) {
  EXPECT_FALSE(client_->UploadDatasetFile(header_, "/no/such/file").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(client_->UploadDatasetFile(header_, ::testing::TempDir()).status()));
  EXPECT_EQ(server_.state().Calls("UploadDataset"), 0);
}

}  // namespace
}  // namespace attune
