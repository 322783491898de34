#ifndef ATTUNE_SERVER_DATA_DATASET_UPLOAD_H_
#define ATTUNE_SERVER_DATA_DATASET_UPLOAD_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "server/data/dataset_store.h"

// The parts of an upload that know nothing of the database.
namespace attune {

// OK if the options make sense; else INVALID_ARGUMENT that names the field.
absl::Status CheckUploadOptions(const DatasetStore::UploadOptions& options);

// OK if no bad row was found, or `skip_bad_rows`; else INVALID_ARGUMENT (BAD_ROWS)
// with the first bad rows in the message and as violations "line 7".
absl::Status CheckRowErrors(const DatasetInfo& info, bool skip_bad_rows);

// A growing file in a folder of its own, which goes away with the object unless it
// was renamed. Not thread-safe.
class UploadFile {
 public:
  // Makes `folder`.
  static absl::StatusOr<std::unique_ptr<UploadFile>> Create(const std::string& folder);
  ~UploadFile();
  UploadFile(const UploadFile&) = delete;
  UploadFile& operator=(const UploadFile&) = delete;

  absl::Status Append(absl::string_view bytes);
  // Ends writing, names the file and syncs it. REQUIRES: called once, after the last Append.
  absl::Status Finish(const std::string& file_name);
  // Everything written. REQUIRES: Finish was not called.
  absl::StatusOr<std::string> Contents() const;
  // SHA-256 of everything written; call once.
  std::string Sha256Hex() { return hash_.Finish(); }

  const std::string& folder() const { return folder_; }
  int64_t size() const { return size_; }

 private:
  UploadFile(std::string folder, int fd) : folder_(std::move(folder)), fd_(fd) {}
  std::string PartPath() const;

  const std::string folder_;
  int fd_;  // -1 once finished
  int64_t size_ = 0;
  Sha256 hash_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_DATASET_UPLOAD_H_
