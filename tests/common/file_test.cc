#include "common/file.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string pattern = (fs::temp_directory_path() / "attune_file_test.XXXXXX").string();
    dir_ = mkdtemp(pattern.data());
  }
  ~FileTest() override { fs::remove_all(dir_); }
  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  std::string dir_;
};

TEST_F(FileTest, WritesAndReadsWhatItGets) {
  const std::string bytes("a\0b\r\n\xff", 6);
  for (const std::string& contents : {bytes, std::string(), std::string(300000, 'x')}) {
    ASSERT_TRUE(WriteFileDurably(Path("f"), contents).ok());
    EXPECT_EQ(*ReadFile(Path("f")), contents);
  }
  EXPECT_FALSE(fs::exists(Path("f.tmp")));
}

TEST_F(FileTest, ReadingWhatIsNotThereIsNotFound) {
  EXPECT_EQ(ReadFile(Path("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadFile(dir_).ok());
}

TEST_F(FileTest, WritingIntoAMissingFolderIsNotFound) {
  EXPECT_EQ(WriteFileDurably(Path("none/f"), "x").code(), absl::StatusCode::kNotFound);
}

TEST_F(FileTest, FullDiskLeavesTheOldContents) {
  ASSERT_TRUE(WriteFileDurably(Path("f"), "old").ok());
  // The temporary name leads to a device that is always full.
  fs::create_symlink("/dev/full", Path("f.tmp"));
  absl::Status status = WriteFileDurably(Path("f"), "new");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorDetails(status).reason, "DISK_FULL");
  EXPECT_EQ(*ReadFile(Path("f")), "old");
  EXPECT_FALSE(fs::exists(fs::symlink_status(Path("f.tmp"))));
}

TEST_F(FileTest, PublishesAFolderWhole) {
  ASSERT_TRUE(MakeDirectories(Path("work/a/b")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("work/a/b/f"), "12345").ok());
  ASSERT_TRUE(WriteFileDurably(Path("work/g"), "678").ok());
  EXPECT_EQ(SizeOnDisk(Path("work")), 8);
  ASSERT_TRUE(PublishDirectory(Path("work"), Path("final")).ok());
  EXPECT_FALSE(fs::exists(Path("work")));
  EXPECT_EQ(*ReadFile(Path("final/a/b/f")), "12345");
  EXPECT_EQ(SizeOnDisk(Path("final")), 8);
}

TEST_F(FileTest, PublishingOverSomethingChangesNothing) {
  ASSERT_TRUE(MakeDirectories(Path("work")).ok());
  ASSERT_TRUE(MakeDirectories(Path("final")).ok());
  EXPECT_EQ(PublishDirectory(Path("work"), Path("final")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(Path("work")));
}

TEST_F(FileTest, PublishingNothingFails) {
  EXPECT_EQ(PublishDirectory(Path("none"), Path("final")).code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(fs::exists(Path("final")));
}

TEST_F(FileTest, RemovesFoldersAndForgivesTheirAbsence) {
  ASSERT_TRUE(MakeDirectories(Path("a/b")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("a/b/f"), "x").ok());
  EXPECT_TRUE(RemoveAll(Path("a")).ok());
  EXPECT_FALSE(fs::exists(Path("a")));
  EXPECT_TRUE(RemoveAll(Path("a")).ok());
}

TEST_F(FileTest, MakingAFolderTwiceIsFineAndOverAFileIsNot) {
  EXPECT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  EXPECT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("f"), "x").ok());
  EXPECT_FALSE(MakeDirectories(Path("f/g")).ok());
}

TEST_F(FileTest, SizeOfWhatIsNotThereIsZero) {
  EXPECT_EQ(SizeOnDisk(Path("none")), 0);
  ASSERT_TRUE(WriteFileDurably(Path("f"), "1234").ok());
  EXPECT_EQ(SizeOnDisk(Path("f")), 4);
}

TEST_F(FileTest, SyncingWhatIsNotThereIsNotFound) {
  EXPECT_TRUE(SyncPath(dir_).ok());
  EXPECT_EQ(SyncPath(Path("none")).code(), absl::StatusCode::kNotFound);
}

TEST(ErrnoStatusTest, MapsWhatCallersActOn) {
  EXPECT_EQ(ErrnoStatus(ENOSPC, "w").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EDQUOT, "w").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(ENOENT, "w").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrnoStatus(EACCES, "w").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(EIO, "writing /x").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ErrnoStatus(EIO, "writing /x").message().substr(0, 12), "writing /x: ");
}

TEST(Sha256Test, KnownDigests) {
  Sha256 empty;
  EXPECT_EQ(empty.Finish(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 pieces;
  pieces.Update("a");
  pieces.Update("");
  pieces.Update("bc");
  EXPECT_EQ(pieces.Finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace attune
