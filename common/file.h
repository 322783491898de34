#ifndef ATTUNE_COMMON_FILE_H_
#define ATTUNE_COMMON_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Durable files: what a call reports as written survives a power cut, and what
// fails leaves nothing under the final name. Full disks give RESOURCE_EXHAUSTED
// with reason DISK_FULL.
namespace attune {

// Writes to `path`.tmp, syncs, renames, syncs the folder.
absl::Status WriteFileDurably(const std::string& path, absl::string_view contents);

// The whole file. NOT_FOUND if it is not there.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Syncs a file, or a folder's list of names.
absl::Status SyncPath(const std::string& path);

// Syncs every file below `from` and the folders, renames `from` to `to` (which
// must not exist) and syncs the folder that holds them: a directory appears whole.
absl::Status PublishDirectory(const std::string& from, const std::string& to);

// Makes a folder and its parents.
absl::Status MakeDirectories(const std::string& path);

// Removes a file or folder with all it holds; OK if it is not there.
absl::Status RemoveAll(const std::string& path);

// Bytes of a file, or of all files in a folder.
int64_t SizeOnDisk(const std::string& path);

// A status for errno, e.g. of a failed write.
absl::Status ErrnoStatus(int error, absl::string_view what);

// SHA-256 in pieces. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(absl::string_view bytes);
  // Lower-case hex. Call once, last.
  std::string Finish();

 private:
  void* context_;  // EVP_MD_CTX, which this header need not know
};

}  // namespace attune

#endif  // ATTUNE_COMMON_FILE_H_
