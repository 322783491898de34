#include "server/adapters/copy_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"

namespace attune {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr size_t kKernelCopyBytes = size_t{1} << 30;

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// Each returns 0 or an errno. Both go on from the descriptors' positions.
int CopyInKernel(int from, int to) {
  for (;;) {
    ssize_t n = copy_file_range(from, nullptr, to, nullptr, kKernelCopyBytes, 0);
    if (n == 0) return 0;
    if (n < 0 && errno != EINTR) return errno;
  }
}

int CopyByHand(int from, int to) {
  std::vector<char> buffer(kBufferBytes);
  for (;;) {
    ssize_t n = read(from, buffer.data(), buffer.size());
    if (n == 0) return 0;
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    for (ssize_t done = 0; done < n;) {
      ssize_t written = write(to, buffer.data() + done, n - done);
      if (written < 0 && errno != EINTR) return errno;
      if (written > 0) done += written;
    }
  }
}

int CopyContents(int from, int to) {
  if (ioctl(to, FICLONE, from) == 0) return 0;
  int failed = CopyInKernel(from, to);
  // Not between these file systems, or not on this kernel. Some report success without
  // copying anything, so the read loop ends the work in any case.
  if (failed != 0 && failed != EXDEV && failed != EINVAL && failed != ENOSYS && failed != EOPNOTSUPP) return failed;
  return CopyByHand(from, to);
}

}  // namespace

absl::Status CopyFile(const std::string& from, const std::string& to) {
  // O_NONBLOCK: opening a pipe must not wait for its other end.
  Descriptor source(open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (source.get() < 0) return ErrnoStatus(errno, absl::StrCat("opening ", from));
  struct stat info;
  if (fstat(source.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("reading ", from));
  if (!S_ISREG(info.st_mode)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "NO_REGULAR_FILE", absl::StrCat(from, " is no regular file"));
  }
  Descriptor target(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (target.get() < 0) return ErrnoStatus(errno, absl::StrCat("making ", to));
  int failed = CopyContents(source.get(), target.get());
  return failed ? ErrnoStatus(failed, absl::StrCat("copying ", from)) : absl::OkStatus();
}

}  // namespace attune
