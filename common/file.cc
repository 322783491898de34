#include "common/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace fs = std::filesystem;

absl::Status ErrnoStatus(int error, absl::string_view what) {
  std::string message = absl::StrCat(what, ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL", message);
    case ENOENT:
      return MakeError(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", message);
    case EACCES:
    case EPERM:
      return MakeError(absl::StatusCode::kPermissionDenied, "FILE_NOT_PERMITTED", message);
    default:
      return MakeError(absl::StatusCode::kInternal, "FILE_ERROR", message);
  }
}

absl::Status SyncPath(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  int failed = fsync(fd) != 0 ? errno : 0;
  close(fd);
  return failed ? ErrnoStatus(failed, absl::StrCat("syncing ", path)) : absl::OkStatus();
}

absl::Status WriteFileDurably(const std::string& path, absl::string_view contents) {
  std::string temporary = path + ".tmp";
  int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("opening ", temporary));
  int failed = 0;
  while (!contents.empty() && !failed) {
    ssize_t n = write(fd, contents.data(), contents.size());
    if (n >= 0) {
      contents.remove_prefix(n);
    } else if (errno != EINTR) {
      failed = errno;
    }
  }
  if (!failed && fsync(fd) != 0) failed = errno;
  if (close(fd) != 0 && !failed) failed = errno;
  if (!failed && rename(temporary.c_str(), path.c_str()) != 0) failed = errno;
  if (failed) {
    unlink(temporary.c_str());
    return ErrnoStatus(failed, absl::StrCat("writing ", path));
  }
  fs::path parent = fs::path(path).parent_path();
  return SyncPath(parent.empty() ? "." : parent.string());
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  std::string contents;
  char buffer[1 << 16];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0) contents.append(buffer, n);
  }
  int failed = n < 0 ? errno : 0;
  close(fd);
  if (failed) return ErrnoStatus(failed, absl::StrCat("reading ", path));
  return contents;
}

absl::Status PublishDirectory(const std::string& from, const std::string& to) {
  std::error_code error;
  if (fs::exists(to, error)) {
    return MakeError(absl::StatusCode::kAlreadyExists, "FILE_EXISTS", absl::StrCat(to, " is there already"));
  }
  for (fs::recursive_directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    ATTUNE_RETURN_IF_ERROR(SyncPath(it->path().string()));
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", from));
  ATTUNE_RETURN_IF_ERROR(SyncPath(from));
  if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(errno, absl::StrCat("renaming ", from));
  return SyncPath(fs::path(to).parent_path().string());
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? ErrnoStatus(error.value(), absl::StrCat("making ", path)) : absl::OkStatus();
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? ErrnoStatus(error.value(), absl::StrCat("removing ", path)) : absl::OkStatus();
}

int64_t SizeOnDisk(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    auto size = fs::file_size(path, error);
    return error ? 0 : static_cast<int64_t>(size);
  }
  int64_t total = 0;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored)) total += static_cast<int64_t>(it->file_size(ignored));
  }
  return total;
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr);
}
Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }
void Sha256::Update(absl::string_view bytes) {
  EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), bytes.data(), bytes.size());
}
std::string Sha256::Finish() {
  unsigned char digest[32];
  unsigned int size = sizeof digest;
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest, &size);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), size));
}

}  // namespace attune
