#include "server/data_dir_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"

namespace attune {

absl::StatusOr<std::unique_ptr<DataDirLock>> DataDirLock::Take(const std::string& data_dir) {
  const std::string path = absl::StrCat(data_dir, "/LOCK");
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  std::unique_ptr<DataDirLock> lock(new DataDirLock(file));
  if (flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, absl::StrCat("locking ", path));
    const std::string owner(absl::StripAsciiWhitespace(ReadFile(path).value_or("")));
    return MakeError(absl::StatusCode::kFailedPrecondition, "DATA_DIR_LOCKED",
                     absl::StrCat("The data directory ", data_dir, " is used by another attuned (process ", owner,
                                  "). Stop that one, or give this one another --data-dir."));
  }
  // For people only; the lock itself is the operating system's.
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(file, 0) != 0 || pwrite(file, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return ErrnoStatus(errno, absl::StrCat("writing ", path));
  }
  return lock;
}

DataDirLock::~DataDirLock() { close(file_); }

}  // namespace attune
