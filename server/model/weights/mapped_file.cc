#include "server/model/weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"

namespace attune {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  struct stat info;
  if (fstat(fd, &info) != 0) {
    int failed = errno;
    close(fd);
    return ErrnoStatus(failed, absl::StrCat("reading the size of ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return MakeError(absl::StatusCode::kInvalidArgument, "NOT_A_FILE", absl::StrCat(path, " is not a regular file"));
  }
  size_t size = static_cast<size_t>(info.st_size);
  void* start = nullptr;
  // Zero bytes cannot be mapped; an empty view stands for them.
  int failed = 0;
  if (size > 0) {
    start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (start == MAP_FAILED) failed = errno;
  }
  close(fd);
  if (failed) return ErrnoStatus(failed, absl::StrCat("mapping ", path));
  return std::unique_ptr<MappedFile>(new MappedFile(absl::string_view(static_cast<const char*>(start), size)));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

}  // namespace attune
