#include "server/data_dir_lock.h"

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

TEST(DataDirLockTest, OnlyOneHasIt) {
  TempFolder folder;
  auto first = DataDirLock::Take(folder.path());
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = DataDirLock::Take(folder.path());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorDetails(second.status()).reason, "DATA_DIR_LOCKED");
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(absl::StrCat("process ", getpid())));
  first->reset();
  EXPECT_TRUE(DataDirLock::Take(folder.path()).ok());
}

TEST(DataDirLockTest, AFileThatADeadServerLeftIsNoLock) {
  TempFolder folder;
  folder.Write("LOCK", "12345\n");
  EXPECT_TRUE(DataDirLock::Take(folder.path()).ok());
}

TEST(DataDirLockTest, NeedsTheFolder) {
  TempFolder folder;
  EXPECT_FALSE(DataDirLock::Take(folder.File("none")).ok());
}

}  // namespace
}  // namespace attune
